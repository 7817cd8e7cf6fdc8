/* SPDX-License-Identifier: Apache-2.0 */

#include "device/cuda_driver.h"

#include "base/error.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define DRIVER_LIBRARY "libcuda.so.1"
#define DRIVER_NEEDED 12040

/* dlsym returns a data pointer; POSIX promises that its bytes are a function pointer's. */
#define SET_FUNCTION(function, address) memcpy(&(function), &(void *){address}, sizeof(function))

static kvp_status driver_too_old(int version)
{
	return kvpi_error(KVP_E_UNSUPPORTED,
	    "the CUDA driver supports CUDA %d.%d, but %d.%d is needed; update the driver",
	    version / 1000, version % 1000 / 10, DRIVER_NEEDED / 1000, DRIVER_NEEDED % 1000 / 10);
}

static kvp_status find_functions(kvpi_cuda_driver *driver, PFN_cuGetProcAddress_v12000 get)
{
	CUdriverProcAddressQueryResult found;
	void *address;

#define FIND(name, since)                                                                          \
	address = NULL;                                                                            \
	if (get("cu" #name, &address, since, CU_GET_PROC_ADDRESS_DEFAULT, &found) !=               \
	        CUDA_SUCCESS ||                                                                    \
	    address == NULL)                                                                       \
		return kvpi_error(KVP_E_UNSUPPORTED,                                               \
		    DRIVER_LIBRARY " has no cu" #name " of CUDA %d.%d", since / 1000,              \
		    since % 1000 / 10);                                                            \
	SET_FUNCTION(driver->name, address);

	KVPI_CUDA_FUNCTIONS(FIND)
#undef FIND
	return KVP_OK;
}

/* The version comes first: it makes the better sentence than the first function that is missing. */
static kvp_status check_version(kvpi_cuda_driver *driver, void *library)
{
	PFN_cuDriverGetVersion_v2020 get_version = NULL;

	SET_FUNCTION(get_version, dlsym(library, "cuDriverGetVersion"));
	if (get_version == NULL || get_version(&driver->version) != CUDA_SUCCESS)
		return kvpi_error(KVP_E_UNSUPPORTED, DRIVER_LIBRARY " does not tell its version");
	if (driver->version < DRIVER_NEEDED)
		return driver_too_old(driver->version);
	return KVP_OK;
}

static kvp_status fill(kvpi_cuda_driver *driver, void *library)
{
	PFN_cuGetProcAddress_v12000 get = NULL;
	const char *name = "unknown code";
	kvp_status status;
	CUresult result;

	status = check_version(driver, library);
	if (status != KVP_OK)
		return status;
	SET_FUNCTION(get, dlsym(library, "cuGetProcAddress_v2"));
	if (get == NULL)
		return kvpi_error(KVP_E_UNSUPPORTED, DRIVER_LIBRARY " has no cuGetProcAddress_v2");
	status = find_functions(driver, get);
	if (status != KVP_OK)
		return status;
	/* Finds the devices; makes no context. */
	result = driver->Init(0);
	if (result != CUDA_SUCCESS) {
		driver->GetErrorName(result, &name);
		return kvpi_error(KVP_E_UNSUPPORTED,
		    "the CUDA driver finds no GPU that this process may use: %s", name);
	}
	return KVP_OK;
}

kvp_status kvpi_cuda_driver_open(kvpi_cuda_driver **out)
{
	kvpi_cuda_driver *driver;
	kvp_status status;
	void *library;

	/* NODELETE: the driver starts threads and exit handlers that would outlive its code. */
	library = dlopen(DRIVER_LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	if (library == NULL)
		return kvpi_error(
		    KVP_E_UNSUPPORTED, "no CUDA driver on this machine: %s", dlerror());

	driver = calloc(1, sizeof(*driver));
	if (driver == NULL) {
		status = kvpi_error_nomem("the CUDA driver's table");
		goto err_library;
	}
	status = fill(driver, library);
	if (status != KVP_OK)
		goto err_driver;
	dlclose(library);
	*out = driver;
	return KVP_OK;

err_driver:
	free(driver);
err_library:
	dlclose(library);
	return status;
}

void kvpi_cuda_driver_close(kvpi_cuda_driver *driver)
{
	free(driver);
}

const kvpi_cuda_driver *kvpi_cuda_driver_if_loaded(void)
{
	/* Exists once per process, as the driver does; made by whoever asks first after the driver was loaded. */
	static _Atomic(kvpi_cuda_driver *) shared;
	kvpi_cuda_driver *driver = atomic_load_explicit(&shared, memory_order_acquire);
	kvpi_cuda_driver *first = NULL;
	void *library;

	if (driver != NULL)
		return driver;
	library = dlopen(DRIVER_LIBRARY, RTLD_NOW | RTLD_NOLOAD);
	if (library == NULL)
		return NULL;
	dlclose(library);
	if (kvpi_cuda_driver_open(&driver) != KVP_OK)
		return NULL;
	if (atomic_compare_exchange_strong(&shared, &first, driver))
		return driver;
	kvpi_cuda_driver_close(driver);
	return first;
}

kvp_status kvpi_cuda_status(const kvpi_cuda_driver *driver, CUresult result, const char *what)
{
	const char *name = "unknown code", *text = "";

	if (result == CUDA_SUCCESS)
		return KVP_OK;
	driver->GetErrorName(result, &name);
	driver->GetErrorString(result, &text);
	return kvpi_error(result == CUDA_ERROR_OUT_OF_MEMORY ? KVP_E_NOMEM : KVP_E_DEVICE,
	    "%s: %s (%d): %s", what, name, (int)result, text);
}
