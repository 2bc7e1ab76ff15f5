"""A service as an agent might write it: it works, says so, and goes on."""
import itertools
import time

for n in itertools.count(1):
    print(f"step {n}: {n * n}")
    time.sleep(0.2)
