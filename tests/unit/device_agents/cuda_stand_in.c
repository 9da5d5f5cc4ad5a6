/* The functions of CUDA's runtime and of NVML that the agent calls, as a processor can do them: what a GPU's memory holds
 * is written by cudaMemcpy alone, a kernel takes a millisecond between two events, and each costs 2 mJ. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static size_t free_bytes = 1u << 30;
static double now_ms;
static unsigned long long energy_mj = 1000;

void stand_in_kernel(void) {
    now_ms += 1.0;
    energy_mj += 2;
}

int cudaSetDevice(int device) {
#ifdef NO_DEVICE
    return 100;
#endif
    return device;
}

int cudaFree(void *pointer) {
    free(pointer);
    return 0;
}

const char *cudaGetErrorString(int status) { return status == 100 ? "no CUDA-capable device is detected" : "another"; }

int cudaMalloc(void **pointer, size_t size) {
    if (size > free_bytes) return 2;
    free_bytes -= size;
    *pointer = malloc(size);
    return 0;
}

int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    memcpy(to, from, size);
    return kind != 1 && kind != 2;
}

int cudaMemGetInfo(size_t *left, size_t *total) {
    *left = free_bytes;
    *total = 1u << 30;
    return 0;
}

int cudaDeviceGetPCIBusId(char *name, int size, int device) {
    strncpy(name, "0000:01:00.0", (size_t)size);
    return device;
}

int cudaEventCreate(double **event) {
    *event = malloc(sizeof **event);
    return 0;
}

int cudaEventRecord(double *event, void *stream) {
    *event = now_ms;
    return stream != NULL;
}

int cudaEventSynchronize(double *event) { return event == NULL; }

int cudaEventElapsedTime(float *milliseconds, double *start, double *stop) {
    *milliseconds = (float)(*stop - *start);
    return 0;
}

int nvmlInit_v2(void) { return 0; }

int nvmlDeviceGetHandleByPciBusId_v2(const char *name, void **device) {
    *device = &energy_mj;
    return strcmp(name, "0000:01:00.0") != 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
#ifdef NO_ENERGY
    return 3;
#endif
    *millijoules = energy_mj;
    return device != &energy_mj;
}
