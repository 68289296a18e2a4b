/* Marks for callgrind, and a getrandom() that gives the same bytes in every run.
 *
 * Loaded twice by instructions.py: by LD_PRELOAD for getrandom, by ctypes for the marks. */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <valgrind/callgrind.h>

void start(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void stop(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}

ssize_t getrandom(void *buffer, size_t length, unsigned int flags)
{
    static uint64_t state = 0x9E3779B97F4A7C15ull;
    unsigned char *bytes = buffer;
    (void)flags;
    for (size_t at = 0; at < length; at++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[at] = (unsigned char)state;
    }
    return (ssize_t)length;
}
