/* Loaded into the user-mode kernel before libc: its clock is the host's, set forward and slowed down as the test says.
 * The test writes into the file that DROVER_CLOCK names: since when by the host's clock, and from when on by the
 * kernel's, time passes, and how much slower than for the host (a shift).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* Written by the test while the kernel reads: a sequence number that is odd meanwhile. */
struct sheet {
    volatile uint64_t sequence;
    volatile uint64_t host_start, guest_start, shift;
};

static struct sheet *sheet;
static int (*host_gettime)(clockid_t, struct timespec *);
static int (*host_settime)(timer_t, int, const struct itimerspec *, struct itimerspec *);

__attribute__((constructor)) static void open_sheet(void) {
    const char *path = getenv("DROVER_CLOCK");
    host_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    host_settime =
        (int (*)(timer_t, int, const struct itimerspec *, struct itimerspec *))dlsym(RTLD_NEXT, "timer_settime");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *memory = mmap(0, sizeof *sheet, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (memory != MAP_FAILED)
        sheet = memory;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = host_gettime(clock, time);
    if (result || !sheet || clock != CLOCK_MONOTONIC)
        return result;
    uint64_t host = (uint64_t)time->tv_sec * 1000000000 + (uint64_t)time->tv_nsec, guest, before;
    do {
        before = sheet->sequence;
        __sync_synchronize();
        uint64_t passed = host > sheet->host_start ? host - sheet->host_start : 0;
        guest = sheet->guest_start + (passed >> sheet->shift);
        __sync_synchronize();
    } while (before != sheet->sequence || before & 1);
    time->tv_sec = (time_t)(guest / 1000000000);
    time->tv_nsec = (long)(guest % 1000000000);
    return 0;
}

/* At the latest after half a millisecond, so that a jump of the clock is noticed by a kernel that sleeps. */
int timer_settime(timer_t timer, int flags, const struct itimerspec *wanted, struct itimerspec *old) {
    struct itimerspec soon = *wanted;
    const long most = 500000;
    if (sheet && !(flags & TIMER_ABSTIME)) {
        if (soon.it_value.tv_sec > 0 || soon.it_value.tv_nsec > most)
            soon.it_value = (struct timespec){0, most};
    }
    return host_settime(timer, flags, &soon, old);
}
