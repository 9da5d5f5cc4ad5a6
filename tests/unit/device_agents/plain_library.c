/* A library of the plain C ABI for tests; the macros choose how it misbehaves. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef ABI
#define ABI 1
#endif
#ifndef FACTOR
#define FACTOR 2
#endif
#define TEXT(x) #x
#define VALUE(x) TEXT(x)

static volatile float sink;
static int calls;

static void work(int rounds) {
    float sum = 0;
    for (int i = 0; i < rounds * 100; i++) sum = sum * 0.5f + (float)i;
    sink = sum;
}

static void hang(void) {
    for (;;) pause();
}

#ifdef KERNELS
const char *library_description(void) {
    return "{\"abi\":" VALUE(ABI) ",\"kind\":\"kernels\",\"kernels\":["
           "{\"index\":0,\"symbol\":\"work\",\"numbers\":1},{\"index\":1,\"symbol\":\"add\",\"numbers\":2},"
           "{\"index\":2,\"symbol\":\"crash\",\"numbers\":0},{\"index\":3,\"symbol\":\"status\",\"numbers\":0},"
           "{\"index\":4,\"symbol\":\"hang\",\"numbers\":0},{\"index\":5,\"symbol\":\"late_crash\",\"numbers\":0}]}";
}

int kernel_run(int32_t index, const int32_t *numbers) {
    if (index == 0) work(numbers[0]);
    if (index == 1) work(numbers[0] + numbers[1]);
    if (index == 2) raise(SIGSEGV);
    if (index == 3) return 7;
    if (index == 4) hang();
    if (index == 5) {
        usleep(200);
        if (++calls > 60) raise(SIGABRT);
    }
    return 0;
}
#else
#ifdef RESIDENT
#define KIND "\"resident\",\"numbers\":2"
/* Ten values, each the first number times the input plus the second. */
int resident_run(const int32_t *numbers, const float *input, float *output) {
    for (int i = 0; i < 10; i++) output[i] = (float)numbers[0] * input[i] + (float)numbers[1];
    work(numbers[0]);
    return numbers[0] < 0;
}
#else
#define KIND "\"network\""
#endif
const char *library_description(void) {
    return "{\"abi\":" VALUE(ABI) ",\"kind\":" KIND ",\"inputs\":[[1,1,2,5]],\"outputs\":[[1,10]],"
           "\"input_bytes\":40,\"output_bytes\":40}";
}

/* Ten values, each multiplied by FACTOR. */
int network_run(const float *input, float *output) {
    for (int i = 0; i < 10; i++) output[i] = FACTOR * input[i];
    work(100);
#ifdef CRASH
    raise(SIGSEGV);
#endif
#ifdef CRASH_AFTER
    if (++calls > CRASH_AFTER) raise(SIGABRT);
#endif
#ifdef HANG_AFTER
    if (++calls > HANG_AFTER) hang();
#endif
#ifdef PRINT
    puts("{\"a native print\": \"that looks like a reply\"}");
    fflush(stdout);
    write(1, "and one past the C library\n", 27);
#endif
#ifdef STATUS
    return STATUS;
#endif
    return 0;
}
#endif

#ifndef NO_REFERENCE
void reference_run(void) { work(50); }
#endif
