"""A C program that runs a network's library: for systems that are not this one."""

import subprocess

import numpy as np

RUNNER = """\
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments)
{
    if (count != 4)
        return 2;
    size_t in = strtoul(arguments[2], 0, 10), out = strtoul(arguments[3], 0, 10);
    float *input = malloc(in), *output = malloc(out);
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\\n", dlerror());
        return 3;
    }
    int (*run)(const float *, float *) = (int (*)(const float *, float *))dlsym(library, "network_run");
    if (fread(input, 1, in, stdin) != in || run(input, output))
        return 4;
    return fwrite(output, 1, out, stdout) != out;
}
"""


def build(compiler, folder):
    """The program, made by the command ``compiler``."""
    (folder / "runner.c").write_text(RUNNER)
    subprocess.run([*compiler, "-O1", "-o", folder / "runner", folder / "runner.c", "-ldl"], check=True)
    return folder / "runner"


def run(command, artifact, x):
    """Output of the network for input ``x``; ``command`` starts the program."""
    sizes = [str(artifact.description[key]) for key in ("input_bytes", "output_bytes")]
    done = subprocess.run(
        [*command, artifact.path, *sizes], input=x.numpy().tobytes(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return np.frombuffer(done.stdout, np.float32)
