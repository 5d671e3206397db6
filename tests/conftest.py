"""One thread for every test: the order of sums, and so the last bit, depends on how many threads add up."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
