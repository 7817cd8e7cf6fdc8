/* SPDX-License-Identifier: Apache-2.0
 *
 * The pipe: ordered tensors from one process to the next.
 *
 * Each pipe sends to one peer and receives from one peer: in a ring of `kv_parallel_size` ranks to
 * rank+1 and from rank-1 (with two ranks that is the same one), or to and from peers named in the options.
 * Both directions run at once.  Tensors arrive in the order they were sent, whole or not at all.
 *
 * Life: kvp_pipe_open → kvp_pipe_send / kvp_pipe_recv from any threads → kvp_pipe_close (refuses new
 * work, returns at once) → kvp_pipe_stop (waits until nothing touches the caller's memory) →
 * kvp_pipe_free.  Free alone does all three.
 *
 * Sending does not wait for the receiver.  What is in flight is bounded by `kv_buffer_size` bytes: beyond
 * that, send blocks with a deadline, or says KVP_E_AGAIN and the room descriptor becomes readable later.
 * A tensor's memory belongs to the pipe until its request has ended.
 *
 * Streams: for device memory, send records on the tensor's stream, on the caller's thread, before it
 * returns: work queued there later may not overwrite the data until the request has ended, work queued
 * before is waited for by the library.  The library never synchronises the caller's stream or device.
 */
#ifndef KVPIPE_PIPE_H
#define KVPIPE_PIPE_H

#include <kvpipe/context.h>
#include <kvpipe/store.h>
#include <kvpipe/tensor.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvp_pipe kvp_pipe;
typedef struct kvp_request kvp_request;

/* ---- opening ------------------------------------------------------------------------------------- */

typedef struct kvp_pipe_options {
	size_t size;
	/* The store to meet at: an open handle (borrowed until the pipe is freed), or store_url, or neither:
	 * then the pipe meets at tcp://kv_ip:(kv_port + kv_port_offset), where rank 0 hosts the store. */
	kvp_store *store;
	const char *store_url;
	const char *kv_ip;    /* default "127.0.0.1"; where rank 0 hosts the store, anything but loopback needs a cluster key */
	int kv_port;          /* default 14579 */
	int kv_port_offset;   /* default 0 */
	const char *name;     /* tells pipes on one store apart; default "kv".  As a group's name, at most 50 bytes */
	/* A ring … */
	int kv_rank;          /* 0 .. kv_parallel_size-1; default 0 */
	int kv_parallel_size; /* ranks in the ring, 1 (to itself) .. 1024; default 2 */
	/* … or, when `endpoint` is set, peers by name: kv_rank and kv_parallel_size are not used then. */
	const char *endpoint; /* this end's own name, at most 32 bytes, unique within `name`; default NULL */
	const char *send_to;  /* peer's endpoint name, NULL: this end does not send */
	const char *recv_from; /* NULL: this end does not receive */
	uint64_t kv_buffer_size;      /* bytes in flight to the peer; default 1,000,000,000 */
	const char *kv_buffer_device; /* "auto" (default) and "cuda": any memory, "cpu": host memory only */
	int store_timeout_ms; /* KVP_TIMEOUT_DEFAULT, and the time a request has; default 300,000 */
	int heartbeat_ms;     /* sign-of-life interval; a peer silent for three is lost; default 1000, 10..60000 */
	const char *bind_host; /* where data and control listen: an address, a host name or the name of a network
	                          interface ("eth0"); default "127.0.0.1".  Anything but loopback needs a cluster key */
	const char *planes;   /* allowed data planes, comma-separated, in the order of preference; "" = all */
	const char *advertise_host; /* what peers are told to connect to; default NULL: the address that is bound */
	const char *port_range; /* ports to listen on, "5000-5100", for firewalls; default "": the system chooses */
	int tcp_streams;      /* plane tcp: parallel connections per direction, 1..16; default 1 */
	int checksum;         /* 1: plane tcp carries a digest of every payload (docs/wire.md); default 0 */
	int poll_us;          /* the pipe's thread, and calls that wait for it, look this many microseconds for news before
	                         they sleep, 0..1000000; default 0.  Costs a core; for latency */
	int worker_cpu;       /* the CPU on which the pipe's thread runs; default -1: any */
} kvp_pipe_options;

KVP_API void kvp_pipe_options_init_sized(kvp_pipe_options *options, size_t size);
static inline void kvp_pipe_options_init(kvp_pipe_options *options)
{
	kvp_pipe_options_init_sized(options, sizeof(*options));
}

/* Any thread.  Sets a field by its name from text ("kv_buffer_size", "2GiB"), as configuration files need.  Borrows
 * `value` for string options.  KVP_E_NOT_FOUND, KVP_E_INVALID. */
KVP_API kvp_status kvp_pipe_options_set(kvp_pipe_options *options, const char *name, const char *value);

/*
 * Any thread.  Meets the peers, connects, agrees on a data plane, and passes a barrier: when it returns KVP_OK on one
 * rank, every rank has come.  Returns owned.
 * KVP_E_TIMEOUT (the sentence names the rank that is late), KVP_E_REFUSED (another cluster key), KVP_E_INVALID, KVP_E_CONFLICT (a rank taken
 * twice; of two endpoints with one name the later replaces the earlier), KVP_E_INCOMPATIBLE, KVP_E_VERSION, KVP_E_NO_PLANE (with the reason of each plane), store
 * errors, process errors.
 */
KVP_API kvp_status kvp_pipe_open(kvp_context *context, const kvp_pipe_options *options, int timeout_ms,
                                 kvp_pipe **pipe);

/* Any thread.  New calls fail with KVP_E_CLOSED from now on, blocked sends and every receive that has not ended too;
 * sends that were accepted go on.  Returns at once. */
KVP_API void kvp_pipe_close(kvp_pipe *pipe);

/* Any thread but the pipe's own (a done callback).  Closes, then waits until accepted sends and all receives have
 * ended; what has not within the time is canceled.  Afterwards nothing touches the caller's memory.  KVP_OK;
 * KVP_E_TIMEOUT when something had to be canceled; KVP_E_SYSTEM if the pipe's thread has not reacted for 10 s more:
 * only then memory may still be touched. */
KVP_API kvp_status kvp_pipe_stop(kvp_pipe *pipe, int timeout_ms);

/* Any thread but the pipe's own, with no other thread inside a call on it.  Stops with 5 s if not stopped, says goodbye
 * to the peers, frees.  With a stuck thread of ours it takes 25 s at most and leaves that thread behind.  Requests
 * stay valid until freed.  NULL is fine. */
KVP_API void kvp_pipe_free(kvp_pipe *pipe);

/* ---- sending ------------------------------------------------------------------------------------- */

typedef struct kvp_send_options {
	size_t size;
	int timeout_ms;  /* how long the call may block for room: 0 = KVP_E_AGAIN at once; default KVP_TIMEOUT_DEFAULT */
	int deadline_ms; /* how long the transfer may take from now; default KVP_TIMEOUT_DEFAULT */
	/* Called once when the request ends, just before those who wait for it are told; from the pipe's thread, or from
	 * the one that frees the pipe.  Must not block, nor stop, flush or free the pipe.  Optional.  When
	 * kvp_pipe_send itself fails, it is not called. */
	void (*done)(void *user, kvp_status status);
	void *user;
} kvp_send_options;

KVP_API void kvp_send_options_init_sized(kvp_send_options *options, size_t size);
static inline void kvp_send_options_init(kvp_send_options *options)
{
	kvp_send_options_init_sized(options, sizeof(*options));
}

/*
 * Any thread; several at once, in an order of their own.  Gives a tensor (or the none
 * marker) to the pipe.  Borrows the tensor's memory until the request has ended; a strided tensor arrives
 * dense.  options may be NULL.  *request (may be NULL: fire and forget) is returned owned.
 *
 * Errors of the call: KVP_E_AGAIN or KVP_E_TIMEOUT (no room in bytes, or 4096 tensors wait for the receiver: those that
 * ran out or were canceled count until he has passed them), KVP_E_INVALID, KVP_E_UNSUPPORTED (memory
 * kind), KVP_E_CLOSED, peer errors once the peer is lost.  The bytes then are not in flight.  Errors of the
 * transfer are the request's: KVP_E_DEADLINE, KVP_E_CANCELED, peer errors; its bytes are given back on every
 * one of them.  KVP_OK of a request means: all bytes are in the receiver's buffer.
 */
KVP_API kvp_status kvp_pipe_send(kvp_pipe *pipe, const kvp_tensor *tensor, const kvp_send_options *options,
                                 kvp_request **request);

/* Any thread but the pipe's own.  Waits until everything sent before has ended; then the status of the first send that has
 * failed since the last flush, if any. */
KVP_API kvp_status kvp_pipe_flush(kvp_pipe *pipe, int timeout_ms);

/* Any thread.  The room event: a descriptor (of the pipe, not to be closed) that becomes readable when, after a
 * KVP_E_AGAIN, half of the budget is free again.  The next send that finds no room resets it.  It may also be
 * readable without need.  A negative kvp_status for a bad handle. */
KVP_API int kvp_pipe_room_fd(const kvp_pipe *pipe);

/* ---- receiving ----------------------------------------------------------------------------------- */

/*
 * Any thread; several at once get tensors in the order of their calls.  Receives the next tensor into the
 * caller's memory.  *tensor describes where:
 *   - a full description (dtype, shape, strides): the arriving one must have the same dtype and shape,
 *     else KVP_E_MISMATCH; strided destinations are filled in place;
 *   - kvp_tensor_init_buffer: any tensor of at most that many bytes, dense.  On success dtype, ndim,
 *     shape and strides are filled in.
 * With a time-out of 0 it takes what needs no transfer: the none marker and empty tensors.
 * The none marker fits every destination; the tensor comes back as none (dtype NONE), memory untouched.
 * When KVP_OK is returned the bytes are there: for device memory too, no stream needs to wait.
 *
 * KVP_E_TIMEOUT: nothing is lost, the tensor stays for the next receive, though the memory may hold parts of
 * it.  The next receive begins it anew: to poll, use kvp_pipe_post_recv, not short time-outs.  KVP_E_MISMATCH: it stays too; the sentence shows both descriptions.  KVP_E_WITHDRAWN: the sender
 * gave up this one; the next receive gets the next.  KVP_E_CLOSED, peer errors.  Only with KVP_E_DEVICE (a device copy
 * does not end) and KVP_E_SYSTEM (the pipe's thread does not react) the memory may still be written afterwards.
 */
KVP_API kvp_status kvp_pipe_recv(kvp_pipe *pipe, kvp_tensor *tensor, int timeout_ms);

/* Any thread.  What the next tensor is, without its data: dtype, shape, dense strides, storage_bytes = its bytes.  Same
 * errors; KVP_E_WITHDRAWN consumes it, as above. */
KVP_API kvp_status kvp_pipe_peek(kvp_pipe *pipe, kvp_tensor *description, int timeout_ms);

/* Where the next tensor goes, decided when its description is known. */
typedef struct kvp_allocator {
	/* On the receiving thread.  `tensor` has dtype, shape, dense strides and storage_bytes; set data (and
	 * memory, device, stream).  Not called for none.  Non-zero refuses: the receive fails with
	 * KVP_E_NOMEM and the tensor stays. */
	int (*alloc)(void *user, kvp_tensor *tensor);
	/* Called when the receive fails after alloc; may be NULL. */
	void (*undo)(void *user, kvp_tensor *tensor);
	void *user;
} kvp_allocator;

/* Any thread.  kvp_pipe_recv into memory that `allocator` gives; *tensor is output only.  Calls of this and of
 * kvp_pipe_peek on one pipe exclude each other. */
KVP_API kvp_status kvp_pipe_recv_alloc(kvp_pipe *pipe, const kvp_allocator *allocator, kvp_tensor *tensor,
                                       int timeout_ms);

/*
 * Any thread.  The non-blocking form: posts a destination for the next tensor that no earlier post takes.  Returns the
 * request owned.  deadline_ms counts from now.  Borrows the memory until the request has ended.  At most 64 posts
 * may be open: KVP_E_AGAIN beyond.
 *
 * Posts are a plan: the first for the next tensor, the second for the one after.  When one fails (mismatch, deadline,
 * cancel; also because a kvp_pipe_recv before it failed), all behind it end with KVP_E_CANCELED, and new ones are
 * refused with KVP_E_CANCELED, so that no tensor lands in the wrong place.  Look at what has ended, then call
 * kvp_pipe_resume and post again: nothing is lost.
 */
KVP_API kvp_status kvp_pipe_post_recv(kvp_pipe *pipe, const kvp_tensor *tensor, int deadline_ms,
                                      kvp_request **request);

/* Any thread.  Takes posts again after one has failed; those posted before this call are canceled. */
KVP_API kvp_status kvp_pipe_resume(kvp_pipe *pipe);

/* ---- requests ------------------------------------------------------------------------------------ */

/* Is the memory of an ended request quiet?  A failure alone does not prove it. */
typedef enum kvp_receipt {
	KVP_RECEIPT_NONE = 0,        /* the request has not ended */
	KVP_RECEIPT_QUIESCENT = 1,   /* nothing touches the memory any more */
	KVP_RECEIPT_QUARANTINED = 2  /* the peer may still touch it until its process is proven gone */
} kvp_receipt;

/* Any thread.  KVP_PENDING, or how it ended (kvp_last_error then has its sentence). */
KVP_API kvp_status kvp_request_test(kvp_request *request);

/* Any thread.  Waits until it has ended; KVP_E_TIMEOUT leaves it running. */
KVP_API kvp_status kvp_request_wait(kvp_request *request, int timeout_ms);

/* Any thread.  KVP_TIMEOUT_DEFAULT is the pipe's.  Asks for its end and waits for the receipt.  KVP_OK when it has ended, in whatever way
 * (test tells: a cancel may come too late); KVP_E_TIMEOUT. */
KVP_API kvp_status kvp_request_cancel(kvp_request *request, int timeout_ms, kvp_receipt *receipt);

/* Any thread. */
KVP_API kvp_receipt kvp_request_receipt(const kvp_request *request);

/* Any thread.  Of a receive that ended well: what came (description and the destination's data pointer). */
KVP_API kvp_status kvp_request_tensor(const kvp_request *request, kvp_tensor *tensor);

/* Where the time of an ended request went, nanoseconds; each counts once. */
typedef struct kvp_times {
	size_t size;
	int64_t queue_ns;   /* sender: until announced; receiver: until an announced tensor met this receive */
	int64_t credit_ns;  /* sender: until the receiver's destination stood ready; receiver: until it was granted */
	int64_t wire_ns;    /* until the last byte had left (the sender's stream work included) or arrived */
	int64_t notify_ns;  /* sender: until the receiver's confirmation; receiver: until the caller was told */
	int64_t total_ns;
	uint64_t bytes;
} kvp_times;

/* Any thread.  `times->size` must be set.  KVP_PENDING while it runs. */
KVP_API kvp_status kvp_request_times(const kvp_request *request, kvp_times *times);

/* Any thread, once.  A request that still runs goes on by itself.  NULL is fine. */
KVP_API void kvp_request_free(kvp_request *request);

/* ---- looking inside ------------------------------------------------------------------------------ */

typedef struct kvp_pipe_stats {
	size_t size;
	uint64_t sent, sent_bytes;         /* sends that ended well */
	uint64_t received, received_bytes; /* receives that ended well */
	uint64_t send_failures, recv_failures;
	uint64_t in_flight_bytes, in_flight_peak_bytes; /* of kv_buffer_size */
	uint64_t refusals;                 /* sends that found no room at once */
	uint64_t retransmissions;          /* transfers begun again after a lost data connection */
	uint64_t protocol_errors;          /* messages thrown away */
} kvp_pipe_stats;

/* Any thread.  `stats->size` must be set. */
KVP_API kvp_status kvp_pipe_stats_get(const kvp_pipe *pipe, kvp_pipe_stats *stats);

/*
 * Any thread.  Writes, in a few lines, which way the pipe goes and why not a better one:
 *   to "kv rank 1" by tcp
 *     control: on the data connection
 *     self: no, the peer is another process
 *     tcp: yes, sockets reach every peer
 * *needed (may be NULL) gets the bytes, final 0 included.  KVP_E_TOO_LARGE when capacity is less.
 */
KVP_API kvp_status kvp_pipe_explain(const kvp_pipe *pipe, char *text, size_t capacity, size_t *needed);

#ifdef __cplusplus
}
#endif
#endif
