# acc[idx] += v in numpy, as an aggregator in Python would: milliseconds of the fastest of three.
import sys
import time

import numpy

elements, values = int(sys.argv[1]), int(sys.argv[2])
rng = numpy.random.default_rng(1)
index = numpy.sort(rng.choice(elements, values, replace=False) if elements < 1 << 24 else numpy.unique(rng.integers(0, elements, values)))
value = rng.standard_normal(len(index), dtype=numpy.float32)
total = numpy.zeros(elements, dtype=numpy.float32)
best = 1e9
for _ in range(3):
    start = time.perf_counter()
    total[index] += value
    best = min(best, time.perf_counter() - start)
print(best * 1e3)
