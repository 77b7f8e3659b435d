/* msgpack as pushes and notifications need it: a reader that never goes past its end, and a writer that takes the
 * shortest form of everything, as msgspec does. Touches nothing else. */
#ifndef GW_MSGPACK_H
#define GW_MSGPACK_H
#include <stdint.h>
#include <string.h>

typedef struct {
    const uint8_t *p;
    const uint8_t *end;
} gw_reader_t;

static inline uint64_t gw_load_be(const uint8_t *p, int n) {
    uint64_t v = 0;
    while (n--) v = v << 8 | *p++;
    return v;
}

/* Big-endian number of n bytes after the tag, or -1 where the bytes are not there. */
static inline int64_t gw_size_after(gw_reader_t *r, int n) {
    int64_t v;
    if (r->end - r->p < 1 + n) return -1;
    v = (int64_t)gw_load_be(r->p + 1, n);
    r->p += 1 + n;
    return v;
}

/* Entries of an array or a map; -1: it is something else, or cut. */
static inline int64_t gw_read_array(gw_reader_t *r) {
    if (r->p >= r->end) return -1;
    if ((*r->p & 0xF0) == 0x90) return *r->p++ & 0x0F;
    if (*r->p == 0xDC) return gw_size_after(r, 2);
    if (*r->p == 0xDD) return gw_size_after(r, 4);
    return -1;
}
static inline int64_t gw_read_map(gw_reader_t *r) {
    if (r->p >= r->end) return -1;
    if ((*r->p & 0xF0) == 0x80) return *r->p++ & 0x0F;
    if (*r->p == 0xDE) return gw_size_after(r, 2);
    if (*r->p == 0xDF) return gw_size_after(r, 4);
    return -1;
}
/* Bytes of a string, `*s` at its first; -1: it is something else, or cut. */
static inline int64_t gw_read_str(gw_reader_t *r, const uint8_t **s) {
    int64_t n;
    if (r->p >= r->end) return -1;
    if ((*r->p & 0xE0) == 0xA0) n = *r->p++ & 0x1F;
    else if (*r->p == 0xD9) n = gw_size_after(r, 1);
    else if (*r->p == 0xDA) n = gw_size_after(r, 2);
    else if (*r->p == 0xDB) n = gw_size_after(r, 4);
    else return -1;
    if (n < 0 || r->end - r->p < n) return -1;
    *s = r->p;
    r->p += n;
    return n;
}
/* A number from 0 to 2^62; -1: it is something else, or cut. */
static inline int64_t gw_read_uint(gw_reader_t *r) {
    uint8_t tag;
    int64_t v;
    if (r->p >= r->end) return -1;
    tag = *r->p;
    if (tag < 0x80) return *r->p++;
    if (tag < 0xCC || tag > 0xD3) return -1;
    v = gw_size_after(r, 1 << ((tag - 0xCC) & 3));
    if (tag >= 0xD0 && v >= 0 && tag < 0xD3 && v >> ((8 << (tag - 0xD0)) - 1)) return -1; /* negative */
    return v < 0 || v >> 62 ? -1 : v;
}

/* Characters of UTF-8; -1 where it is none (RFC 3629: shortest forms, no surrogates, up to U+10FFFF). */
static inline int64_t gw_utf8_chars(const uint8_t *s, int64_t n) {
    int64_t at = 0, chars = 0;
    while (at < n) {
        uint64_t eight;
        while (n - at >= 8 && (memcpy(&eight, s + at, 8), !(eight & UINT64_C(0x8080808080808080)))) {
            at += 8;
            chars += 8;
        }
        if (at >= n) break;
        uint8_t c = s[at];
        int more = c < 0x80 ? 0 : c >= 0xC2 && c < 0xE0 ? 1 : (c & 0xF0) == 0xE0 ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : -1;
        if (more < 0 || n - at <= more) return -1;
        for (int i = 1; i <= more; i++)
            if ((s[at + i] & 0xC0) != 0x80) return -1;
        if (more == 2 && ((c == 0xE0 && s[at + 1] < 0xA0) || (c == 0xED && s[at + 1] > 0x9F))) return -1;
        if (more == 3 && ((c == 0xF0 && s[at + 1] < 0x90) || (c == 0xF4 && s[at + 1] > 0x8F))) return -1;
        at += more + 1;
        chars++;
    }
    return chars;
}

/* Past one value of any kind; 0 where it is cut, too deep for nothing (no recursion), or no msgpack. */
static inline int gw_skip(gw_reader_t *r) {
    uint64_t left = 1;
    while (left) {
        int64_t n = 0, children = 0;
        uint8_t tag;
        if (r->p >= r->end || left > (uint64_t)(r->end - r->p)) return 0;
        tag = *r->p;
        left--;
        if (tag < 0x80 || tag >= 0xE0 || tag == 0xC0 || tag == 0xC2 || tag == 0xC3) r->p++;
        else if (tag < 0x90 || tag == 0xDE || tag == 0xDF) children = 2 * gw_read_map(r);
        else if (tag < 0xA0 || tag == 0xDC || tag == 0xDD) children = gw_read_array(r);
        else if (tag < 0xC0) n = *r->p++ & 0x1F;
        else if (tag == 0xC1) return 0;
        else if (tag <= 0xC6) n = gw_size_after(r, 1 << (tag - 0xC4));
        else if (tag <= 0xC9) { n = gw_size_after(r, 1 << (tag - 0xC7)); n += n >= 0; }
        else if (tag == 0xCA) { r->p++; n = 4; }
        else if (tag == 0xCB) { r->p++; n = 8; }
        else if (tag <= 0xD3) { r->p++; n = 1 << ((tag - 0xCC) & 3); }
        else if (tag <= 0xD8) { r->p++; n = 1 + (1 << (tag - 0xD4)); }
        else n = gw_size_after(r, 1 << (tag - 0xD9));
        if (n < 0 || children < 0 || r->end - r->p < n) return 0;
        r->p += n;
        left += (uint64_t)children;
    }
    return 1;
}

/* Past one value that JSON has too (maps with text keys, no binary, no extensions), arrays and maps at most `depth`
 * levels deep; 0 where it is anything else. */
static int gw_skip_json(gw_reader_t *r, int depth) {
    const uint8_t *s;
    int64_t n;
    uint8_t tag;
    if (r->p >= r->end) return 0;
    tag = *r->p;
    if ((tag >= 0xA0 && tag < 0xC0) || (tag >= 0xD9 && tag <= 0xDB)) {
        n = gw_read_str(r, &s);
        return n >= 0 && gw_utf8_chars(s, n) >= 0;
    }
    if ((tag >= 0x80 && tag < 0x90) || tag == 0xDE || tag == 0xDF) {
        n = gw_read_map(r);
        if (n < 0 || !depth) return 0;
        while (n--) {
            int64_t key = gw_read_str(r, &s);
            if (key < 0 || gw_utf8_chars(s, key) < 0 || !gw_skip_json(r, depth - 1)) return 0;
        }
        return 1;
    }
    if ((tag >= 0x90 && tag < 0xA0) || tag == 0xDC || tag == 0xDD) {
        n = gw_read_array(r);
        if (n < 0 || !depth) return 0;
        while (n--)
            if (!gw_skip_json(r, depth - 1)) return 0;
        return 1;
    }
    if ((tag >= 0xC4 && tag <= 0xC9) || (tag >= 0xD4 && tag <= 0xD8)) return 0;
    return gw_skip(r);
}

static inline uint32_t gw_uint_bytes(uint64_t v) {
    return v < 0x80 ? 1 : v < 0x100 ? 2 : v < 0x10000 ? 3 : v < UINT64_C(0x100000000) ? 5 : 9;
}
static inline uint8_t *gw_store_be(uint8_t *p, uint64_t v, int n) {
    for (int i = n - 1; i >= 0; i--, v >>= 8) p[i] = (uint8_t)v;
    return p + n;
}
static inline uint8_t *gw_write_uint(uint8_t *p, uint64_t v) {
    uint32_t n = gw_uint_bytes(v);
    if (n == 1) {
        *p = (uint8_t)v;
        return p + 1;
    }
    *p = n == 2 ? 0xCC : n == 3 ? 0xCD : n == 5 ? 0xCE : 0xCF;
    return gw_store_be(p + 1, v, (int)n - 1);
}
static inline uint32_t gw_str_bytes(uint32_t n) { return n + (n < 32 ? 1 : n < 0x100 ? 2 : n < 0x10000 ? 3 : 5); }
static inline uint8_t *gw_write_str(uint8_t *p, const void *s, uint32_t n) {
    if (n < 32) *p++ = (uint8_t)(0xA0 | n);
    else if (n < 0x100) *p = 0xD9, p = gw_store_be(p + 1, n, 1);
    else if (n < 0x10000) *p = 0xDA, p = gw_store_be(p + 1, n, 2);
    else *p = 0xDB, p = gw_store_be(p + 1, n, 4);
    memcpy(p, s, n);
    return p + n;
}

/* Six bits of a character of base64url; -1: it is none. */
static inline int gw_char64(uint8_t c) {
    static const int8_t values[128] = {
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 62, -1, -1,
        52, 53, 54, 55, 56, 57, 58, 59, 60, 61, -1, -1, -1, -1, -1, -1,
        -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
        15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, -1, -1, -1, -1, 63,
        -1, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40,
        41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, -1, -1, -1, -1, -1,
    };
    return c < 128 ? values[c] : -1;
}

/* Token, 16 bytes ↔ 22 characters of base64url. Without a branch for each: what they are can not be foreseen. */
static inline int gw_parse_token(const uint8_t *s, uint8_t *token) {
    int any = 0, last;
    for (int i = 0; i < 5; i++, s += 4, token += 3) {
        int a = gw_char64(s[0]), b = gw_char64(s[1]), c = gw_char64(s[2]), d = gw_char64(s[3]);
        uint32_t bits = (uint32_t)a << 18 | (uint32_t)b << 12 | (uint32_t)c << 6 | (uint32_t)d;
        any |= a | b | c | d;
        token[0] = (uint8_t)(bits >> 16);
        token[1] = (uint8_t)(bits >> 8);
        token[2] = (uint8_t)bits;
    }
    last = gw_char64(s[1]);
    any |= gw_char64(s[0]) | last;
    *token = (uint8_t)((uint32_t)gw_char64(s[0]) << 2 | (uint32_t)last >> 4);
    return any >= 0 && (last & 15) == 0; /* only the canonical form */
}
static inline void gw_build_token(const uint8_t *token, uint8_t *s) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (int i = 0; i < 5; i++, token += 3, s += 4) {
        uint32_t bits = (uint32_t)token[0] << 16 | (uint32_t)token[1] << 8 | token[2];
        s[0] = (uint8_t)digits[bits >> 18];
        s[1] = (uint8_t)digits[bits >> 12 & 63];
        s[2] = (uint8_t)digits[bits >> 6 & 63];
        s[3] = (uint8_t)digits[bits & 63];
    }
    s[0] = (uint8_t)digits[*token >> 2];
    s[1] = (uint8_t)digits[*token << 4 & 63];
}
#endif
