/* A plain library (C ABI version 1) that does a known amount of work; macros say how much and what goes wrong. */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

enum { COUNT = 1024 };
static float left[COUNT], right[COUNT];
static volatile float sink;

static void work(int passes) {
    for (int pass = 0; pass < passes; ++pass) {
        float factor = 1.0f / (float)(pass + 1);
        for (int index = 0; index < COUNT; ++index) left[index] = left[index] * 0.5f + right[index] * factor;
        sink = left[pass % COUNT];
    }
}

const char *library_description(void) { return DESCRIPTION; }

void reference_run(void) { work(200); }

/* The sum of four numbers; FATAL_CALL is the number of the call that ends the process; KILLS_PARENT ends its agent. */
int network_run(const float *input, float *output) {
    static int calls = 0;
    if (++calls == FATAL_CALL) abort();
    if (KILLS_PARENT && calls == 30) kill(getppid(), SIGKILL);
    work(WORK);
    output[0] = input[0] + input[1] + input[2] + input[3];
    return 0;
}

/* Work proportional to the first number; a negative second one ends the process, a positive one fails. */
int resident_run(const int32_t *numbers, const float *input, float *output) {
    if (numbers[1] < 0) abort();
    work(numbers[0]);
    output[0] = input[0] + input[1] + input[2] + input[3];
    return numbers[1];
}

/* Work proportional to the product of the numbers; a negative index or number fails, 666 ends the agent. */
int kernel_run(int32_t index, const int32_t *numbers) {
    if (numbers[1] == 666) kill(getppid(), SIGKILL);
    work(numbers[0] * numbers[1]);
    return index < 0 || numbers[0] > 1000;
}
