"""Ping-pong beside two threads of a C program that play the same game: `./lab run python bench/pingpong.py`. It needs a C compiler.

For each pair of CPUs the guest and the program take turns, so that what drifts falls upon both; it prints each one's median,
least and most, and the ratios of the medians and of the least: on a busy machine only the latter says something.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

from kvmlab import KvmlabError, Lab, measure

ROUNDS, SECONDS = 21, 0.05
PROGRAM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static struct { volatile uint32_t ball, rest[63]; volatile uint64_t turns[2][32]; volatile int stop; } t __attribute__((aligned(256)));

static void *play(void *arg)
{
    uint32_t side = (uintptr_t)arg & 1;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET((uintptr_t)arg >> 1, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus))
        exit(1);
    while (!t.stop) {
        uint32_t ball = t.ball;
        if ((ball & 1) == side) {
            t.ball = ball + 1;
            t.turns[side][0]++;
        }
    }
    return 0;
}

static double returned(uint64_t *turns)  /* when the ball came back next */
{
    struct timespec now, pause = {0, 100000};
    uint64_t before = t.turns[0][0];
    while (t.turns[0][0] == before)
        nanosleep(&pause, 0);
    clock_gettime(CLOCK_MONOTONIC, &now);
    *turns = t.turns[0][0];
    return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    pthread_t threads[2];
    struct timespec settle = {0, 10000000}, run = {0, atof(argv[3]) * 1e9};
    uint64_t before, after;
    for (uintptr_t side = 0; side < 2; side++)
        pthread_create(&threads[side], 0, play, (void *)(2 * (uintptr_t)atoi(argv[1 + side]) + side));
    nanosleep(&settle, 0);
    double begin = returned(&before);
    nanosleep(&run, 0);
    double end = returned(&after);
    printf("%.3f\n", (end - begin) * 1e9 / (after - before));
    return 0;
}
"""


def compiled(folder: str) -> Path:
    program = Path(folder, "pingpong")
    subprocess.run([shutil.which("cc") or "gcc", "-O2", "-pthread", "-x", "c", "-", "-o", program], input=PROGRAM, text=True, check=True)
    return program


def told(a: int, b: int, guest: list[float], threads: list[float]) -> str:
    def span(values: list[float]) -> str:
        return f"{median(values):12,.1f} ns ({min(values):,.1f} to {max(values):,.1f})"

    ratios = f"{median(guest) / median(threads):.3f} (least: {min(guest) / min(threads):.3f})"
    return f"CPUs {a} and {b}: guest {span(guest)}; two threads {span(threads)}; ratio {ratios}"


def compare(lab: Lab, program: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:4]
    guest = lab.start("hp-bench", vcpus=2)
    for a, b in itertools.combinations_with_replacement(cpus, 2):
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            runs = measure.pingpong(lab, sorted({a, b}), SECONDS, 1, guest)
            found[0].extend(runs.query("cpu_a == @a and cpu_b == @b")["round_trip_ns"].dropna())
            said = subprocess.run([program, str(a), str(b), str(SECONDS)], capture_output=True, text=True, check=True).stdout
            found[1].append(float(said))
        print(f"{lab.accel} {told(a, b, *found)}", flush=True)
    guest.destroy()
    begin = time.perf_counter()
    runs = measure.pingpong(lab, cpus)
    print(f"{lab.accel} measure.pingpong on {len(cpus)} CPUs: {len(runs)} runs in {time.perf_counter() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(folder)
        for accel in ("kvm", "tcg"):
            try:
                with Lab(accel=accel) as lab:
                    compare(lab, program)
            except KvmlabError as error:
                print(error)
