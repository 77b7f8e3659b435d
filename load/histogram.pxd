"""Latencies in fixed memory: counts in buckets that are at most 1.6 % wide. One writer."""
from libc.stdint cimport uint64_t

cdef enum:
    HISTOGRAM_STEPS = 64            # buckets of each power of two
    HISTOGRAM_BUCKETS = 2304        # up to 2^40: microseconds of twelve days

cdef struct histogram_t:
    uint64_t counts[2304]
    uint64_t count
    uint64_t sum
    uint64_t largest

cdef void histogram_add(histogram_t *h, uint64_t value) noexcept nogil
# Upper end of the bucket below which this share of all values lies, 0 … 1.
cdef uint64_t histogram_quantile(const histogram_t *h, double share) noexcept nogil
cdef void histogram_merge(histogram_t *into, const histogram_t *h) noexcept nogil
cdef dict histogram_summary(const histogram_t *h, double unit)
