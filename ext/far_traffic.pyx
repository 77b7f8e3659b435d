"""The common records of a message between nodes, in one loop: notifications into reactors, acks into batches; must
leave everything that is not plain where it is, for the control plane to look at.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING
from gateway._native.batches cimport Batches, batches_ack
from gateway._native.far_records cimport (
    GW_FAR_ACK, GW_FAR_NOTIFY, GW_FAR_REACTOR, HomeTable, gw_attachment, gw_far_record_t)
from gateway._native.mailbox cimport gw_ring_publish, gw_ring_reserve
from gateway._native.outbox cimport gw_buffer_drop, gw_buffer_new, gw_buffer_t
from gateway._native.pending cimport pending_get
from gateway._native.plane cimport ACK_SHOWN, CMD_NOTIFY, command_t, reactor_t
from gateway._native.reactor cimport Reactor
from gateway._native.registry cimport Registry, registry_links

cdef enum:
    REACTORS_MAX = 256
    REACTOR_SHIFT = 56
    NODE_SHIFT = 40
    RUN_MOST = 4096
    NUMBERS = 0x80000000            # registration numbers are below


cdef inline bint record_at(const uint8_t *p, size_t size, size_t at, gw_far_record_t *record) noexcept nogil:
    """False at the end, or where it is cut."""
    if size - at < sizeof(gw_far_record_t):
        return False
    memcpy(record, p + at, sizeof(gw_far_record_t))
    return record.size <= size - at - sizeof(gw_far_record_t)


def count_records(bytes body not None, size_t at):
    """How many there are from this place on; -1 where one is cut."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef size_t size = len(body)
    cdef gw_far_record_t record
    cdef long count = 0
    if at > size:
        return -1
    while at < size:
        if not record_at(p, size, at, &record):
            return -1
        at += sizeof(gw_far_record_t) + record.size
        count += 1
    return count


def deliver(bytes body not None, size_t at, uint16_t partition, HomeTable homes not None, Registry registry not None,
            list reactors not None):
    """Queue notifications on their links, from this place on; returns the place of the first record that is none, or
    is not plain: its link is over, its reactor's mailbox is full."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef size_t size = len(body)
    cdef reactor_t *of[REACTORS_MAX]
    cdef uint8_t touched[REACTORS_MAX]
    cdef gw_far_record_t record
    cdef gw_buffer_t *buffer
    cdef command_t *c
    cdef reactor_t *r
    cdef Reactor reactor
    cdef uint64_t link
    cdef int i
    memset(of, 0, sizeof(of))
    memset(touched, 0, sizeof(touched))
    for reactor in reactors:
        of[reactor.index & 0xFF] = reactor.r
    while at < size and record_at(p, size, at, &record):
        if record.kind != GW_FAR_NOTIFY or record.local >= homes.count or record.size == 0:
            break
        if homes.numbers[record.local] != record.number or homes.partitions[record.local] != partition:
            break
        link = 0
        registry_links(registry.r, &record.local, 1, &link)
        if link == 0 or gw_attachment(link) != record.attachment:
            break
        r = of[link >> REACTOR_SHIFT]
        if r == NULL:
            break
        buffer = gw_buffer_new(p + at + sizeof(gw_far_record_t), record.size)
        c = NULL if buffer == NULL else <command_t *>gw_ring_reserve(&r.down, sizeof(command_t))
        if c == NULL:
            gw_buffer_drop(buffer)
            break
        memset(c, 0, sizeof(command_t))
        c.kind = CMD_NOTIFY
        c.flag = record.flag & 1
        c.link = link
        c.seq = record.seq
        c.registration = record.local
        c.ms = <uint32_t>max(<uint64_t>1, min(record.a, <uint64_t>0xFFFFFFFF))
        c.buffer = buffer
        touched[link >> REACTOR_SHIFT] = 1
        at += sizeof(gw_far_record_t) + record.size
    for i in range(REACTORS_MAX):
        if touched[i]:
            gw_ring_publish(&of[i].down)
    return at


def hear_acks(bytes body not None, size_t at, uint16_t node, Registry registry not None, Batches batches not None,
              list acks not None, list runs not None):
    """Settle acks from this place on; (place of the first record that is none, how many were of a stale attachment).
    Those that `batches` could not settle are put into `acks` as a reactor's drain does, those in time of what is no
    pending delivery into `runs`."""
    cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(body)
    cdef size_t size = len(body)
    cdef gw_far_record_t record
    cdef uint32_t run[RUN_MOST]
    cdef uint32_t in_run = 0
    cdef uint64_t run_seq = 0, run_ms = 0, link, base
    cdef long stale = 0
    base = <uint64_t>GW_FAR_REACTOR << REACTOR_SHIFT | <uint64_t>node << NODE_SHIFT
    while at < size and record_at(p, size, at, &record):
        if record.kind != GW_FAR_ACK:
            break
        at += sizeof(gw_far_record_t) + record.size
        link = 0
        if record.number < <uint32_t>NUMBERS:
            registry_links(registry.r, &record.number, 1, &link)
        if link == 0 or link != (base | (record.attachment & ((<uint64_t>1 << NODE_SHIFT) - 1))):
            stale += 1
            continue
        if record.flag == 0 and pending_get(batches.b.pending, record.seq) == NULL:
            if in_run == RUN_MOST or (in_run and run_seq != record.seq):
                runs.append((run_seq, (<const char *>run)[:in_run * 4], run_ms))
                in_run = 0
            run[in_run] = record.number
            in_run += 1
            run_seq = record.seq
            run_ms = record.b
        elif not batches_ack(&batches.b, record.seq, record.number, record.a, record.b, record.flag & ACK_SHOWN):
            acks.append((record.seq, record.number, record.a, record.b, record.flag, link))
    if in_run:
        runs.append((run_seq, (<const char *>run)[:in_run * 4], run_ms))
    return at, stale
