/*
 * The parts of the processing element that a profile of a Linux boot says cannot be Python: the hook that every guest
 * exception calls, and the marking of translated pages in the TLB (a tenth of a boot in the library's own version).
 *
 * A plain shared object for ctypes (machine/cpu/native.py): it does not use Python's headers. It knows nothing of the
 * engine library by itself; addresses and offsets come from machine/cpu/unicorn_library.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Changes with every structure and function below; native.py refuses another one. */
const uint32_t element_interface = 2;

/* Kept in step with ExceptionHook in native.py. */
struct element {
    /* The library's functions and fields. */
    void *cpu;
    int (*stop)(void *uc);
    void (*enter_el1)(void *cpu);
    const uint32_t *target_el;
    /* Bit n: exception number n, when its target is EL1, is entered by the library itself. */
    uint64_t entered_at_el1;
    /* The number of the exception that ended the run; the caller sets it to -1 before. */
    int64_t taken;
};

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
    uint64_t page_bits;     /* of the pages that the TLB is indexed by */
};

static struct tlb_layout tlb;

static inline void mark(char *entry, uint64_t start, uint64_t length)
{
    uint64_t *write = (uint64_t *)(entry + tlb.addr_write);

    if (!(*write & tlb.clean_flags) && (*write & -(1ull << tlb.page_bits)) - start < length)
        *write |= tlb.not_dirty;
}

/* What the library calls instead of its own function: the same effect. */
void element_reset_dirty(char *cpu, uint64_t start, uint64_t length)
{
    char *env = *(char **)(cpu + tlb.cpu_env);
    const uint64_t last = (start + length - 1) >> tlb.page_bits;

    for (uint64_t mode = 0; mode < tlb.modes; mode++) {
        char *fast = env + tlb.env_fast + 16 * mode;
        uint64_t mask = *(uint64_t *)fast >> tlb.entry_size_log2;
        char *table = *(char **)(fast + 8);
        char *victim = env + tlb.env_victims + tlb.victim_stride * mode;

        for (uint64_t page = start >> tlb.page_bits; page <= last; page++)
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
    return interpose(in_library, "tlb_reset_dirty_by_vaddr_aarch64", (void *)element_reset_dirty);
}
