/* A network of the plain C ABI that says it is for a GPU: ten values, each doubled. */
#include <stdint.h>

extern void stand_in_kernel(void);

const char *library_description(void) {
    return "{\"abi\":1,\"kind\":\"network\",\"device\":\"cuda\",\"inputs\":[[1,10]],\"outputs\":[[1,10]],"
           "\"input_bytes\":40,\"output_bytes\":40}";
}

int network_run(const float *input, float *output) {
    for (int i = 0; i < 10; i++) output[i] = 2 * input[i];
    stand_in_kernel();
    return 0;
}

void reference_run(void) { stand_in_kernel(); }
