/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA's driver API, found at run time.  The library is never linked with libcuda.so.1, so that one
 * build runs on machines with and without a GPU.
 */
#ifndef KVPI_DEVICE_CUDA_DRIVER_H
#define KVPI_DEVICE_CUDA_DRIVER_H

#include <kvpipe/status.h>

typedef struct kvpi_cuda_driver kvpi_cuda_driver;

/*
 * Any thread.  Opens the driver and looks its functions up; creates no context and touches no
 * device. *out is returned owned.  KVP_E_UNSUPPORTED, with a sentence, if the library was built
 * without CUDA, if the machine has no driver or no GPU, or if the driver is older than CUDA 12.4.
 */
kvp_status kvpi_cuda_driver_open(kvpi_cuda_driver **out);

/* Any thread.  Takes `driver`; NULL is fine.  The driver itself stays loaded: it cannot be unloaded
 * safely. */
void kvpi_cuda_driver_close(kvpi_cuda_driver *driver);

/* Any thread.  The one of this process, borrowed: NULL unless somebody has loaded libcuda.so.1 already, so that asking
 * "is this a CUDA pointer?" loads nothing. */
const kvpi_cuda_driver *kvpi_cuda_driver_if_loaded(void);

#ifdef HAVE_CUDA
#include <cuda.h>
#include <cudaTypedefs.h>

/*
 * Every function the library calls, with the version of its signature.  The version picks the type
 * (PFN_cuFuncLoad_v12040) and is what the driver is asked for, so the two cannot part: the same
 * name may mean another signature in another version.
 */
#define KVPI_CUDA_FUNCTIONS(X)                                                                     \
	X(CtxGetCurrent, 4000)                                                                     \
	X(CtxPopCurrent, 4000)                                                                     \
	X(CtxPushCurrent, 4000)                                                                    \
	X(CtxSetCurrent, 4000)                                                                     \
	X(DeviceGet, 2000)                                                                         \
	X(DeviceGetCount, 2000)                                                                    \
	X(DevicePrimaryCtxGetState, 7000)                                                          \
	X(DevicePrimaryCtxRelease, 11000)                                                          \
	X(DevicePrimaryCtxRetain, 7000)                                                            \
	X(DriverGetVersion, 2020)                                                                  \
	X(EventCreate, 2000)                                                                       \
	X(EventDestroy, 4000)                                                                      \
	X(EventQuery, 2000)                                                                        \
	X(EventRecord, 2000)                                                                       \
	X(FuncLoad, 12040)                                                                         \
	X(GetErrorName, 6000)                                                                      \
	X(GetErrorString, 6000)                                                                    \
	X(Init, 2000)                                                                              \
	X(KernelGetFunction, 12000)                                                                \
	X(LaunchKernelEx, 11060)                                                                   \
	X(LibraryGetKernel, 12000)                                                                 \
	X(LibraryLoadData, 12000)                                                                  \
	X(LibraryUnload, 12000)                                                                    \
	X(MemAddressFree, 10020)                                                                   \
	X(MemAddressReserve, 10020)                                                                \
	X(MemAlloc, 3020)                                                                          \
	X(MemCreate, 10020)                                                                        \
	X(MemExportToShareableHandle, 10020)                                                       \
	X(MemFree, 3020)                                                                           \
	X(MemFreeHost, 2000)                                                                       \
	X(MemGetAddressRange, 3020)                                                                \
	X(MemGetAllocationGranularity, 10020)                                                      \
	X(MemHostAlloc, 2020)                                                                      \
	X(MemHostRegister, 6050)                                                                   \
	X(MemHostUnregister, 4000)                                                                 \
	X(MemImportFromShareableHandle, 10020)                                                     \
	X(MemMap, 10020)                                                                           \
	X(MemRelease, 10020)                                                                       \
	X(MemRetainAllocationHandle, 11000)                                                        \
	X(MemSetAccess, 10020)                                                                     \
	X(MemUnmap, 10020)                                                                         \
	X(MemcpyAsync, 4000)                                                                       \
	X(MemcpyDtoH, 3020)                                                                        \
	X(MemcpyHtoD, 3020)                                                                        \
	X(PointerGetAttributes, 7000)                                                              \
	X(StreamCreate, 2000)                                                                      \
	X(StreamDestroy, 4000)                                                                     \
	X(StreamIsCapturing, 10000)                                                                \
	X(StreamSynchronize, 2000)                                                                 \
	X(ThreadExchangeStreamCaptureMode, 10010)

struct kvpi_cuda_driver {
	int version; /* the newest CUDA the driver supports: 12040 is 12.4 */
#define KVPI_CUDA_MEMBER(name, since) PFN_cu##name##_v##since name;
	KVPI_CUDA_FUNCTIONS(KVPI_CUDA_MEMBER)
#undef KVPI_CUDA_MEMBER
};

/*
 * Translates what the driver returned, once: KVP_OK for CUDA_SUCCESS, else KVP_E_DEVICE
 * (KVP_E_NOMEM for want of memory) with a sentence "<what>: <the driver's name and text>".  `what`
 * is the driver's function.
 */
kvp_status kvpi_cuda_status(const kvpi_cuda_driver *driver, CUresult result, const char *what);
#endif

#endif
