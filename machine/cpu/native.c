/*
 * The parts of the processing element that a profile of a Linux boot says cannot be Python: the hook that every guest
 * exception calls, the thread that stops a running engine, and the marking of translated pages in the TLB.
 *
 * A plain shared object for ctypes (machine/cpu/native.py): it does not use Python's headers. It knows nothing of the
 * engine library by itself; addresses and offsets come from machine/cpu/unicorn_library.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000ull
/* Nanoseconds between two requests to stop: uc_emu_start clears one that comes just before it. */
#define REPEAT 200000
#define NOTHING_TAKEN (-1)

enum state { IDLE, RUNNING, WAITING };

/* Kept in step with Native in native.py. */
struct element {
    /* The library's functions and fields. */
    void *uc;
    void *cpu;
    int (*start)(void *uc, uint64_t begin, uint64_t until, uint64_t timeout, size_t count);
    int (*stop)(void *uc);
    void (*enter_el1)(void *cpu);
    const uint32_t *target_el;
    const uint64_t *pc;
    /* Bit n: exception number n, when its target is EL1, is entered by the library itself. */
    uint64_t entered_at_el1;
    /* The number of the exception that ended the run. */
    int64_t taken;

    /* Stopping. A kick sets kicked, then reads state; the run loop sets state, then reads kicked and expired. Whichever
     * comes second sees the other, so no kick is lost. All of these are sequentially consistent. */
    _Atomic uint32_t state;
    _Atomic uint32_t kicked;
    _Atomic uint32_t expired;
    _Atomic uint32_t closing;
    /* When the run timer fires, 0 when it is not armed. */
    _Atomic uint64_t armed;
    int run_timer;
    int wake;
    int waiter;
    pthread_t thread;
};

static uint64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * SECOND + (uint64_t)at.tv_nsec;
}

static void drain(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR) {
    }
}

static void signal_fd(int fd)
{
    const uint64_t one = 1;
    while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

static void *watch(void *opaque)
{
    struct element *e = opaque;
    struct pollfd fds[2] = {{.fd = e->wake, .events = POLLIN}, {.fd = e->run_timer, .events = POLLIN}};

    while (!e->closing) {
        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[0].revents)
            drain(e->wake);
        if (fds[1].revents) {
            drain(e->run_timer);
            e->armed = 0;
            e->expired = 1;
        }
        while (e->state == RUNNING && (e->kicked || e->expired) && !e->closing) {
            struct timespec pause = {0, REPEAT};
            e->stop(e->uc);
            nanosleep(&pause, NULL);
        }
    }
    return NULL;
}

/* 0, or the errno of what could not be had. The caller has filled in the library's part of *e; the rest is zero. */
int element_open(struct element *e)
{
    int code;

    e->taken = NOTHING_TAKEN;
    e->run_timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    e->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    e->waiter = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    code = e->run_timer < 0 || e->wake < 0 || e->waiter < 0 ? errno : pthread_create(&e->thread, NULL, watch, e);
    if (code) {
        close(e->run_timer);
        close(e->wake);
        close(e->waiter);
    }
    return code;
}

/* Not while the engine runs. */
void element_close(struct element *e)
{
    e->closing = 1;
    signal_fd(e->wake);
    pthread_join(e->thread, NULL);
    close(e->run_timer);
    close(e->wake);
    close(e->waiter);
}

/* From any thread. */
void element_kick(struct element *e)
{
    e->kicked = 1;
    switch (e->state) {
    case RUNNING:
        signal_fd(e->wake);
        break;
    case WAITING:
        signal_fd(e->waiter);
        break;
    }
}

int element_take_kick(struct element *e)
{
    return e->kicked && atomic_exchange(&e->kicked, 0);
}

/* Stop no later than at `deadline` (ns, monotonic). An earlier firing than asked for only costs a spurious stop, so a
 * deadline that moves away is not worth a system call. */
void element_stop_at(struct element *e, uint64_t deadline)
{
    uint64_t armed = e->armed;

    if (!armed || deadline < armed) {
        struct itimerspec at = {.it_value = {(time_t)(deadline / SECOND), (long)(deadline % SECOND)}};
        if (!deadline)
            at.it_value.tv_nsec = 1;
        e->armed = deadline ? deadline : 1;
        timerfd_settime(e->run_timer, TFD_TIMER_ABSTIME, &at, NULL);
    }
}

/* Run until an exception is taken to EL2, a kick, or `deadline` (0: none). The library's result, or -1 without a run:
 * there is a kick, or the deadline may have passed, look again. */
int element_run(struct element *e, uint64_t deadline)
{
    int code;

    if (deadline)
        element_stop_at(e, deadline);
    e->taken = NOTHING_TAKEN;
    e->state = RUNNING;
    if (e->kicked || e->expired) {
        e->state = IDLE;
        e->expired = 0;
        return -1;
    }
    code = e->start(e->uc, *e->pc, 0, 0, 0);
    e->state = IDLE;
    return code;
}

/* Block until a kick, which is consumed (1), or until `deadline` (0: none) has passed (0). */
int element_wait(struct element *e, uint64_t deadline)
{
    struct pollfd fd = {.fd = e->waiter, .events = POLLIN};

    e->state = WAITING;
    while (!e->kicked) {
        struct timespec left, *limit = NULL;
        if (deadline) {
            uint64_t at = now();
            if (at >= deadline) {
                e->state = IDLE;
                return 0;
            }
            left = (struct timespec){(time_t)((deadline - at) / SECOND), (long)((deadline - at) % SECOND)};
            limit = &left;
        }
        if (ppoll(&fd, 1, limit, NULL) > 0)
            drain(e->waiter);
    }
    e->state = IDLE;
    return element_take_kick(e);
}

/* UC_HOOK_INTR. */
void element_exception(void *uc, uint32_t number, void *opaque)
{
    struct element *e = opaque;

    if (*e->target_el == 1 && number < 64 && e->entered_at_el1 >> number & 1) {
        e->enter_el1(e->cpu);
    } else {
        e->taken = number;
        e->stop(uc);
    }
}

/*
 * The TLB. The library marks the page of a new translation as "not dirty" by looking at every entry of every mode; an
 * entry for a page can only be at one index, and in the victim buffer.
 */
struct tlb_layout {
    uint64_t cpu_env;       /* offset of the env pointer in CPUState */
    int64_t env_fast;       /* offset of the first CPUTLBDescFast {mask, table} from env */
    int64_t env_victims;    /* offset of the first mode's victim buffer from env */
    uint64_t victim_stride;
    uint64_t modes;
    uint64_t victims;
    uint64_t entry_size_log2;
    uint64_t addr_write;    /* offset in an entry */
    uint64_t clean_flags;   /* flags with which an entry is left alone */
    uint64_t not_dirty;     /* the flag to set */
};

#define PAGE_BITS 12
static struct tlb_layout tlb;

static inline void mark(char *entry, uint64_t start, uint64_t length)
{
    uint64_t *write = (uint64_t *)(entry + tlb.addr_write);

    if (!(*write & tlb.clean_flags) && (*write & -(1ull << PAGE_BITS)) - start < length)
        *write |= tlb.not_dirty;
}

static void reset_dirty(char *cpu, uint64_t start, uint64_t length)
{
    char *env = *(char **)(cpu + tlb.cpu_env);
    const uint64_t last = (start + length - 1) >> PAGE_BITS;

    for (uint64_t mode = 0; mode < tlb.modes; mode++) {
        char *fast = env + tlb.env_fast + 16 * mode;
        uint64_t mask = *(uint64_t *)fast >> tlb.entry_size_log2;
        char *table = *(char **)(fast + 8);
        char *victim = env + tlb.env_victims + tlb.victim_stride * mode;

        for (uint64_t page = start >> PAGE_BITS; page <= last; page++)
            mark(table + ((page & mask) << tlb.entry_size_log2), start, length);
        for (uint64_t i = 0; i < tlb.victims; i++)
            mark(victim + (i << tlb.entry_size_log2), start, length);
    }
}

/* Have the library call `replacement` wherever it calls its own function `name`. 0; -1 when there is no such call. */
static int interpose(const void *in_library, const char *name, void *replacement)
{
    Dl_info info;
    struct link_map *map;
    const Elf64_Rela *rela = NULL;
    const Elf64_Sym *symbols = NULL;
    const char *strings = NULL;
    size_t size = 0;

    if (!dladdr1(in_library, &info, (void **)&map, RTLD_DL_LINKMAP))
        return -1;
    for (const Elf64_Dyn *dyn = map->l_ld; dyn->d_tag != DT_NULL; dyn++) {
        switch (dyn->d_tag) {
        case DT_JMPREL: rela = (const void *)dyn->d_un.d_ptr; break;
        case DT_PLTRELSZ: size = dyn->d_un.d_val; break;
        case DT_SYMTAB: symbols = (const void *)dyn->d_un.d_ptr; break;
        case DT_STRTAB: strings = (const void *)dyn->d_un.d_ptr; break;
        }
    }
    if (!rela || !symbols || !strings)
        return -1;
    for (size_t i = 0; i < size / sizeof(*rela); i++) {
        if (!strcmp(strings + symbols[ELF64_R_SYM(rela[i].r_info)].st_name, name)) {
            void **slot = (void **)(map->l_addr + rela[i].r_offset);
            uintptr_t page = (uintptr_t)slot & -(uintptr_t)sysconf(_SC_PAGESIZE);
            if (mprotect((void *)page, (uintptr_t)(slot + 1) - page, PROT_READ | PROT_WRITE))
                return -1;
            *slot = replacement;
            return 0;
        }
    }
    return -1;
}

/* Replace the library's tlb_reset_dirty_by_vaddr; `in_library` is the address of any of its functions. */
int element_use_tlb(const struct tlb_layout *layout, const void *in_library)
{
    tlb = *layout;
    return interpose(in_library, "tlb_reset_dirty_by_vaddr_aarch64", (void *)reset_dirty);
}
