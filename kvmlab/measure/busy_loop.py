"""What measure.noise runs on each host CPU, as a process of its own: a loop that does nothing but look at the clock.

It prints, as JSON, how long it looked, its turns in each slice of that time, its longest pause, and what the kernel counted of it
and of its CPU before and after.
"""

import json
import os
import sys
import time

SLICE_S = 0.02


def counted(cpu):
    """Of this thread, schedstat's nanoseconds run and waited; of the CPU, /proc/stat's ticks. None where a file is missing."""
    try:
        with open("/proc/self/schedstat") as file:
            ran = [int(word) for word in file.read().split()[:2]]
        with open("/proc/stat") as file:
            ticks = [[int(word) for word in line.split()[1:]] for line in file if line.startswith(f"cpu{cpu} ")]
    except OSError:
        return None, None
    return ran, ticks[0] if ticks else None


def loop(seconds):
    """Turns in each slice, seconds, and the longest time between two looks."""
    now = time.perf_counter
    turns, longest = [0] * max(2, round(seconds / SLICE_S)), 0.0
    begin = last = now()
    for number in range(len(turns)):
        end, count = begin + (number + 1) * seconds / len(turns), 0
        while last < end:
            before, last = last, now()
            count += 1
            if last - before > longest:
                longest = last - before
        turns[number] = count
    return turns, last - begin, longest


def main(cpu, seconds):
    os.sched_setaffinity(0, {cpu})
    before = counted(cpu)
    turns, took, longest = loop(seconds)
    after = counted(cpu)
    print(json.dumps({"turns": turns, "seconds": took, "longest": longest, "before": before, "after": after}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
