/* Loaded before libc (LD_PRELOAD), this stands between the program and the system.

   It counts what the program takes from the heap: what Rust, the crypto library and libc take is counted alike. The counts are in
   the file that HEAP_COUNTS names, so that a test reads them while the program runs.

   It also stands in for the kernel's REDIRECT rule, which needs root: with SERVER_PORT, each client meant to reach 192.0.2.1:25,
   and who connects to there reaches that port of loopback. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/netfilter_ipv4.h */
#define SO_ORIGINAL_DST 80

/* The names that glibc has for its own functions. */
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

struct counts {
    /* Blocks taken, and blocks whose size was changed. */
    _Atomic uint64_t allocations;
    /* Octets of the blocks that are in use, as large as malloc made them. */
    _Atomic int64_t octets;
    /* The most that these ever were. */
    _Atomic int64_t most;
};

/* Before the file is there, nobody asks. */
static struct counts early;
static struct counts *counts = &early;
static in_port_t server_port;

static void share(const char *path) {
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *shared = mmap(0, sizeof early, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) abort();
    close(file);
    counts = shared;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("HEAP_COUNTS"), *port = getenv("SERVER_PORT");
    if (path) share(path);
    if (port) server_port = htons(atoi(port));
}

static void *taken(void *block) {
    if (block) {
        atomic_fetch_add(&counts->allocations, 1);
        int64_t size = malloc_usable_size(block);
        int64_t now = atomic_fetch_add(&counts->octets, size) + size;
        int64_t most = atomic_load(&counts->most);
        while (most < now && !atomic_compare_exchange_weak(&counts->most, &most, now)) {}
    }
    return block;
}

void *malloc(size_t size) { return taken(__libc_malloc(size)); }
void *calloc(size_t number, size_t size) { return taken(__libc_calloc(number, size)); }
void *memalign(size_t alignment, size_t size) { return taken(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    void *made = memalign(alignment, size);
    if (!made) return ENOMEM;
    *block = made;
    return 0;
}

void *realloc(void *block, size_t size) {
    size_t before = malloc_usable_size(block);
    void *after = __libc_realloc(block, size);
    if (after || !size) atomic_fetch_sub(&counts->octets, before);
    return taken(after);
}

void free(void *block) {
    atomic_fetch_sub(&counts->octets, malloc_usable_size(block));
    __libc_free(block);
}

static struct sockaddr_in far_server(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(25)};
    address.sin_addr.s_addr = inet_addr("192.0.2.1");
    return address;
}

int getsockopt(int socket, int level, int name, void *value, socklen_t *size) {
    struct sockaddr_in address = far_server();
    if (!server_port || level != SOL_IP || name != SO_ORIGINAL_DST || *size < sizeof address)
        return syscall(SYS_getsockopt, socket, level, name, value, size);
    memcpy(value, &address, *size = sizeof address);
    return 0;
}

int connect(int socket, const struct sockaddr *to, socklen_t size) {
    struct sockaddr_in address = far_server();
    if (server_port && size == sizeof address && !memcmp(to, &address, sizeof address)) {
        address.sin_port = server_port;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        to = (const struct sockaddr *)&address;
    }
    return syscall(SYS_connect, socket, to, size);
}
