/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA as a device: streams, events, copies.  Memory is in cuda_memory.c, waiting in cuda_wait.c.
 */
#include "device/cuda_gpu.h"

#include "base/alloc.h"
#include "base/error.h"
#include "device/tables.h"

static kvp_status cuda_prepare(int device)
{
	kvpi_gpu *gpu;

	return kvpi_gpu_get(device, &gpu);
}

/* ---- streams and events ------------------------------------------------------------------------------ */

static kvp_status cuda_stream_new(int device, void **stream)
{
	kvpi_gpu_scope scope;
	CUstream made = NULL;
	kvpi_gpu *gpu;
	kvp_status status = kvpi_gpu_enter_at(device, &gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = KVPI_GPU_CALL(gpu, StreamCreate, &made, CU_STREAM_NON_BLOCKING);
	kvpi_gpu_leave(&scope);
	if (status == KVP_OK)
		*stream = made;
	return status;
}

static void cuda_stream_free(int device, void *stream)
{
	kvpi_gpu_scope scope;
	kvpi_gpu *gpu;

	if (stream == NULL || kvpi_gpu_enter_at(device, &gpu, &scope) != KVP_OK)
		return;
	gpu->driver->StreamSynchronize(stream);
	gpu->driver->StreamDestroy(stream);
	kvpi_gpu_leave(&scope);
}

static struct kvpi_event *take_event(kvpi_gpu *gpu)
{
	struct kvpi_event *event;

	pthread_mutex_lock(&gpu->mutex);
	event = gpu->events;
	if (event != NULL)
		gpu->events = event->next;
	pthread_mutex_unlock(&gpu->mutex);
	return event;
}

static void give_event(struct kvpi_event *event)
{
	kvpi_gpu *gpu = event->gpu;

	pthread_mutex_lock(&gpu->mutex);
	event->next = gpu->events;
	gpu->events = event;
	pthread_mutex_unlock(&gpu->mutex);
}

/* In the GPU's scope. */
static kvp_status get_event(kvpi_gpu *gpu, struct kvpi_event **out)
{
	struct kvpi_event *event = take_event(gpu);
	kvp_status status;

	if (event == NULL) {
		event = KVPI_NEW(struct kvpi_event);
		if (event == NULL)
			return kvpi_error_nomem("an event");
		event->gpu = gpu;
		status = KVPI_GPU_CALL(gpu, EventCreate, &event->event, CU_EVENT_DISABLE_TIMING);
		if (status != KVP_OK) {
			free(event);
			return status;
		}
	}
	*out = event;
	return KVP_OK;
}

static kvp_status record(kvpi_gpu *gpu, CUstream stream, struct kvpi_event **event)
{
	CUstreamCaptureStatus capturing = CU_STREAM_CAPTURE_STATUS_NONE;
	kvp_status status = KVPI_GPU_CALL(gpu, StreamIsCapturing, stream, &capturing);

	if (status != KVP_OK)
		return status;
	if (capturing != CU_STREAM_CAPTURE_STATUS_NONE)
		return kvpi_error(KVP_E_UNSUPPORTED, "the tensor's stream is being captured into a graph: when it will run is "
		                  "not known now");
	status = get_event(gpu, event);
	if (status != KVP_OK)
		return status;
	status = KVPI_GPU_CALL(gpu, EventRecord, (*event)->event, stream);
	if (status != KVP_OK)
		give_event(*event);
	return status;
}

static kvp_status cuda_record(int device, void *stream, kvpi_event **event)
{
	struct kvpi_event *made = NULL;
	kvpi_gpu_scope scope;
	kvpi_gpu *gpu;
	kvp_status status = kvpi_gpu_enter_at(device, &gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = record(gpu, stream, &made);
	kvpi_gpu_leave(&scope);
	if (status == KVP_OK)
		*event = made;
	return status;
}

static kvp_status cuda_query(kvpi_event *event)
{
	kvpi_gpu_scope scope;
	kvp_status status = kvpi_gpu_enter(event->gpu, &scope);
	CUresult result;

	if (status != KVP_OK)
		return status;
	result = event->gpu->driver->EventQuery(event->event);
	kvpi_gpu_leave(&scope);
	return result == CUDA_ERROR_NOT_READY ? KVP_PENDING : kvpi_cuda_status(event->gpu->driver, result, "cuEventQuery");
}

static void cuda_event_free(kvpi_event *event)
{
	if (event != NULL)
		give_event(event); /* recorded anew before it is asked again */
}

/* ---- copies ------------------------------------------------------------------------------------------ */

static kvp_status copy_pieces(kvpi_gpu *gpu, CUstream stream, const kvpi_piece *pieces, size_t count)
{
	kvp_status status = KVP_OK;

	for (size_t i = 0; i < count && status == KVP_OK; i++)
		status = KVPI_GPU_CALL(gpu, MemcpyAsync, kvpi_gpu_address(pieces[i].to), kvpi_gpu_address(pieces[i].from),
		                       pieces[i].len, stream);
	return status;
}

static kvp_status cuda_copy(int device, void *stream, const kvpi_piece *pieces, size_t count)
{
	kvpi_gpu_scope scope;
	kvpi_gpu *gpu;
	kvp_status status = kvpi_gpu_enter_at(device, &gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = copy_pieces(gpu, stream, pieces, count);
	kvpi_gpu_leave(&scope);
	return status;
}

static kvp_status cuda_copy_blocks(int device, void *stream, const kvpi_layout *to, const kvpi_layout *from)
{
	kvpi_piece pieces[64];
	kvpi_gpu_scope scope;
	uint64_t offset = 0;
	kvpi_gpu *gpu;
	kvp_status status = KVP_OK;
	size_t count;

	if (to->bytes != from->bytes)
		return kvpi_error(KVP_E_INVALID, "a copy of %llu bytes to a layout of %llu", (unsigned long long)from->bytes,
		                  (unsigned long long)to->bytes);
	status = kvpi_gpu_enter_at(device, &gpu, &scope);
	if (status != KVP_OK)
		return status;
	while (status == KVP_OK && (count = kvpi_layout_pieces(to, from, &offset, UINT64_MAX, pieces, 64)) > 0)
		status = copy_pieces(gpu, stream, pieces, count);
	kvpi_gpu_leave(&scope);
	return status;
}

static kvp_status cuda_write_word(int device, void *stream, uint64_t *word, uint64_t value)
{
	kvpi_gpu_scope scope;
	kvpi_gpu *gpu;
	kvp_status status = kvpi_gpu_enter_at(device, &gpu, &scope);

	if (status != KVP_OK)
		return status;
	status = kvpi_cuda_kernels_write_words(gpu->kernels, stream, &word, 1, value);
	kvpi_gpu_leave(&scope);
	return status;
}

const kvpi_device_ops kvpi_cuda_device = {
    .size = sizeof(kvpi_cuda_device),
    .name = "cuda",
    .memory = KVP_MEMORY_CUDA,
    .owns = kvpi_cuda_owns,
    .prepare = cuda_prepare,
    .pin = kvpi_cuda_pin,
    .unpin = kvpi_cuda_unpin,
    .alloc = kvpi_cuda_alloc,
    .free = kvpi_cuda_free,
    .stream_new = cuda_stream_new,
    .stream_free = cuda_stream_free,
    .record = cuda_record,
    .query = cuda_query,
    .event_free = cuda_event_free,
    .copy = cuda_copy,
    .copy_blocks = cuda_copy_blocks,
    .write_word = cuda_write_word,
    .wait_list_new = kvpi_cuda_wait_list_new,
    .wait_list_free = kvpi_cuda_wait_list_free,
    .wait_list_fill = kvpi_cuda_wait_list_fill,
    .wait_list_enqueue = kvpi_cuda_wait_list_enqueue,
    .wait_list_cancel = kvpi_cuda_wait_list_cancel,
    .wait_list_result = kvpi_cuda_wait_list_result,
    .export_memory = kvpi_cuda_export,
    .import_memory = kvpi_cuda_import,
    .unimport = kvpi_cuda_unimport,
};
