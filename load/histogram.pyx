"""Log-linear histograms, as HDR histograms are: exact below 64, then 64 buckets to each power of two."""
cimport cython
from libc.stdint cimport uint64_t
from libc.string cimport memset

cdef extern from *:
    """
    #define swarm_leading_zeros(x) __builtin_clzll(x)
    """
    int swarm_leading_zeros(uint64_t x) nogil


cdef inline int bucket_of(uint64_t value) noexcept nogil:
    cdef int shift, bucket
    if value < HISTOGRAM_STEPS:
        return <int>value
    shift = 57 - swarm_leading_zeros(value)
    bucket = (shift + 1) * HISTOGRAM_STEPS + <int>((value >> shift) & (HISTOGRAM_STEPS - 1))
    return min(bucket, HISTOGRAM_BUCKETS - 1)


cdef inline uint64_t top_of(int bucket) noexcept nogil:
    """Largest value of a bucket."""
    cdef int shift = bucket // HISTOGRAM_STEPS - 1
    if shift < 0:
        return <uint64_t>bucket
    return ((<uint64_t>(HISTOGRAM_STEPS + bucket % HISTOGRAM_STEPS) + 1) << shift) - 1


cdef void histogram_add(histogram_t *h, uint64_t value) noexcept nogil:
    h.counts[bucket_of(value)] += 1
    h.count += 1
    h.sum += value
    if value > h.largest:
        h.largest = value


cdef uint64_t histogram_quantile(const histogram_t *h, double share) noexcept nogil:
    cdef uint64_t rank = <uint64_t>(share * h.count + 0.999999)
    cdef uint64_t seen = 0
    cdef int i
    if rank == 0:
        rank = 1
    for i in range(HISTOGRAM_BUCKETS):
        seen += h.counts[i]
        if seen >= rank:
            return min(top_of(i), h.largest)
    return h.largest


cdef void histogram_merge(histogram_t *into, const histogram_t *h) noexcept nogil:
    cdef int i
    for i in range(HISTOGRAM_BUCKETS):
        into.counts[i] += h.counts[i]
    into.count += h.count
    into.sum += h.sum
    into.largest = max(into.largest, h.largest)


cdef dict histogram_summary(const histogram_t *h, double unit):
    """Quantiles, largest and mean in units of `unit` values; count."""
    cdef dict out = {name: round(histogram_quantile(h, share) / unit, 3) if h.count else 0.0
                     for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))}
    out["max"] = round(h.largest / unit, 3)
    out["mean"] = round(h.sum / unit / h.count, 3) if h.count else 0.0
    out["count"] = h.count
    return out


@cython.final
cdef class Histogram:
    """One histogram as a Python object."""
    cdef histogram_t h

    def __cinit__(self):
        memset(&self.h, 0, sizeof(histogram_t))

    def add(self, value: int) -> None:
        histogram_add(&self.h, value)

    def quantile(self, share: float) -> int:
        """No value of that share is above it, and it is at most 1.6 % above the exact one."""
        return histogram_quantile(&self.h, share)

    def merge(self, Histogram other not None) -> None:
        histogram_merge(&self.h, &other.h)

    def summary(self, unit: float = 1.0) -> dict:
        return histogram_summary(&self.h, unit)

    def __len__(self) -> int:
        return self.h.count
