/* Whether weights have been edited behind PyTorch's count of changes: some of their elements are looked at. */
#pragma once
#include <stdint.h>
#include <string.h>

typedef struct {
    const void *at;
    uint32_t value; /* of `bytes` bytes */
    int bytes;
} Sample;

long samples_changed(const Sample *samples, long count) {
    long changed = 0;
    for (long i = 0; i < count; i++) {
        uint32_t now = 0;
        memcpy(&now, samples[i].at, samples[i].bytes);
        changed |= now != samples[i].value;
    }
    return changed;
}
