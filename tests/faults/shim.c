/* Stands between a broker and the system (LD_PRELOAD): kills it, or has a call fail, at a chosen moment; steps its clock.
 *
 *   FAULTS_DATA       only files below this folder count
 *   FAULTS_SHIM       call:kind:when:nth:what
 *       call  write, sync, rename, truncate, open, unlink, confirm, any
 *       kind  wal, sst, manifest, current, options, folder, other, any
 *       when  before, after
 *       nth   which of the calls that match, from 1
 *       what  kill, eio, enospc, short
 *   FAULTS_SHIM_LOG   what was done is told there
 *   FAULTS_CLOCK      a file of eight octets: milliseconds by which the time of day is wrong
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { WRITE, SYNC, RENAME, TRUNCATE, OPEN, UNLINK, CONFIRM, ANY_CALL };
static const char *const calls[] = {"write", "sync", "rename", "truncate", "open", "unlink", "confirm", "any"};
enum kind { NO_FILE, WAL, SST, MANIFEST, CURRENT, OPTIONS, FOLDER, OTHER, ANY_KIND };
static const char *const kinds[] = {"", "wal", "sst", "manifest", "current", "options", "folder", "other", "any"};
enum what { KILL, FAIL_EIO, FAIL_ENOSPC, SHORT };

#define DESCRIPTORS_MAX 65536
static unsigned char kind_of[DESCRIPTORS_MAX];

static char data[PATH_MAX];
static enum call wanted_call;
static enum kind wanted_kind;
static int after;
static long nth = -1;
static enum what what;
static atomic_long counted;
static atomic_int fired;
static atomic_int failed_descriptor = -1;
static int log_fd = -1;
static volatile int64_t *clock_step_ms;

static void tell(const char *text) {
    if (log_fd >= 0) syscall(SYS_write, log_fd, text, strlen(text));
}

static int find(const char *const *names, int count, const char *name) {
    for (int at = 0; at < count; at++)
        if (strcmp(names[at], name) == 0) return at;
    return -1;
}

static enum kind kind_of_path(const char *path) {
    size_t under = strlen(data);
    if (under == 0 || path == NULL || strncmp(path, data, under) != 0) return NO_FILE;
    if (path[under] == 0 || (path[under] == '/' && path[under + 1] == 0)) return FOLDER;
    const char *name = strrchr(path, '/') + 1;
    size_t length = strlen(name);
    if (length > 4 && strcmp(name + length - 4, ".log") == 0) return WAL;
    if (length > 4 && strcmp(name + length - 4, ".sst") == 0) return SST;
    if (strncmp(name, "MANIFEST-", 9) == 0) return MANIFEST;
    if (strcmp(name, "CURRENT") == 0 || (length > 6 && strcmp(name + length - 6, ".dbtmp") == 0)) return CURRENT;
    if (strncmp(name, "OPTIONS-", 8) == 0) return OPTIONS;
    /* The store's own diary and the lock are nobody's data. */
    if (strncmp(name, "LOG", 3) == 0) return NO_FILE;
    return OTHER;
}

static enum kind kind_of_fd(int fd) {
    return fd >= 0 && fd < DESCRIPTORS_MAX ? kind_of[fd] : NO_FILE;
}

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("FAULTS_DATA"), *told = getenv("FAULTS_SHIM_LOG"), *step = getenv("FAULTS_CLOCK");
    if (folder) snprintf(data, sizeof data, "%s", folder);
    if (told) log_fd = (int)syscall(SYS_openat, AT_FDCWD, told, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (step) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, step, O_RDONLY | O_CLOEXEC, 0);
        void *map = fd < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
        if (map != MAP_FAILED) clock_step_ms = map;
    }
    const char *given = getenv("FAULTS_SHIM");
    if (!given) return;
    char call[16], kind[16], when[16], action[16];
    long number;
    if (sscanf(given, "%15[^:]:%15[^:]:%15[^:]:%ld:%15s", call, kind, when, &number, action) != 5) abort();
    int found_call = find(calls, 8, call), found_kind = find(kinds, 9, kind);
    if (found_call < 0 || found_kind < 0) abort();
    static const char *const actions[] = {"kill", "eio", "enospc", "short"};
    int found_what = find(actions, 4, action);
    if (found_what < 0) abort();
    wanted_call = found_call;
    wanted_kind = found_kind;
    after = strcmp(when, "after") == 0;
    what = found_what;
    nth = number;
}

/* Whether this is the moment. */
static int is_it(enum call call, enum kind kind) {
    if (nth < 0 || kind == NO_FILE) return 0;
    if (wanted_call != ANY_CALL && wanted_call != call) return 0;
    if (wanted_kind != ANY_KIND && wanted_kind != kind) return 0;
    if (wanted_call == ANY_CALL && call == CONFIRM) return 0;
    if (atomic_fetch_add(&counted, 1) + 1 != nth) return 0;
    char text[64];
    snprintf(text, sizeof text, "fired %s %s\n", calls[call], kinds[kind]);
    atomic_store(&fired, 1);
    tell(text);
    return 1;
}

__attribute__((noreturn)) static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int refuse(void) {
    errno = what == FAIL_ENOSPC ? ENOSPC : EIO;
    return -1;
}

#define REAL(type, name, ...)                                    \
    static type (*real)(__VA_ARGS__);                            \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* Around a call on a file that succeeds or not; `part` is as much of it as the system may do. */
#define AROUND(call, kind, type, run) AROUND_PART(call, kind, type, run, run)
#define AROUND_PART(call, kind, type, run, part)                 \
    do {                                                         \
        if (!is_it(call, kind)) return run;                      \
        if (what == SHORT) return part;                          \
        if (what != KILL) return (type)refuse();                 \
        if (!after) die();                                       \
        type result = run;                                       \
        (void)result;                                            \
        die();                                                   \
    } while (0)

static int is_confirm(const void *octets, size_t length) {
    static const unsigned char ack[] = {0, 0, 0, 13, 0, 60, 0, 80};
    const unsigned char *frame = octets;
    return length >= 12 && frame[0] == 1 && memcmp(frame + 3, ack, 8) == 0;
}

ssize_t send(int fd, const void *octets, size_t length, int flags) {
    REAL(ssize_t, send, int, const void *, size_t, int);
    if (!is_confirm(octets, length)) return real(fd, octets, length, flags);
    AROUND(CONFIRM, OTHER, ssize_t, real(fd, octets, length, flags));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
    if (message->msg_iovlen == 0 || !is_confirm(message->msg_iov[0].iov_base, message->msg_iov[0].iov_len))
        return real(fd, message, flags);
    AROUND(CONFIRM, OTHER, ssize_t, real(fd, message, flags));
}

#define HALF(length) ((length) > 1 ? (length) / 2 : (length))

ssize_t write(int fd, const void *octets, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    enum kind kind = kind_of_fd(fd);
    if (kind == NO_FILE && is_confirm(octets, length)) AROUND(CONFIRM, OTHER, ssize_t, real(fd, octets, length));
    AROUND_PART(WRITE, kind, ssize_t, real(fd, octets, length), real(fd, octets, HALF(length)));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    enum kind kind = kind_of_fd(fd);
    if (kind == NO_FILE && count > 0 && is_confirm(parts[0].iov_base, parts[0].iov_len))
        AROUND(CONFIRM, OTHER, ssize_t, real(fd, parts, count));
    AROUND(WRITE, kind, ssize_t, real(fd, parts, count));
}

static ssize_t pwrite_at(int fd, const void *octets, size_t length, off_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    enum kind kind = kind_of_fd(fd);
    AROUND_PART(WRITE, kind, ssize_t, real(fd, octets, length, at), real(fd, octets, HALF(length), at));
}

ssize_t pwrite(int fd, const void *octets, size_t length, off_t at) { return pwrite_at(fd, octets, length, at); }
ssize_t pwrite64(int fd, const void *octets, size_t length, off_t at) { return pwrite_at(fd, octets, length, at); }

/* A sync that failed must not be tried again: what the disk then holds is unknown. */
static void note_failed_sync(int fd) {
    if (atomic_load(&failed_descriptor) != fd) return;
    char text[64];
    snprintf(text, sizeof text, "again sync %s\n", kinds[kind_of_fd(fd)]);
    tell(text);
}

#define SYNCS(name)                                              \
    int name(int fd) {                                           \
        REAL(int, name, int);                                    \
        enum kind kind = kind_of_fd(fd);                         \
        note_failed_sync(fd);                                    \
        if (!is_it(SYNC, kind)) return real(fd);                 \
        if (what != KILL) {                                      \
            atomic_store(&failed_descriptor, fd);                \
            return refuse();                                     \
        }                                                        \
        if (!after) die();                                       \
        real(fd);                                                \
        die();                                                   \
    }

SYNCS(fdatasync)
SYNCS(fsync)

static int truncate_at(int fd, off_t length) {
    REAL(int, ftruncate64, int, off_t);
    AROUND(TRUNCATE, kind_of_fd(fd), int, real(fd, length));
}

int ftruncate(int fd, off_t length) { return truncate_at(fd, length); }
int ftruncate64(int fd, off_t length) { return truncate_at(fd, length); }

static int allocate(int fd, int mode, off_t at, off_t length) {
    REAL(int, fallocate64, int, int, off_t, off_t);
    AROUND(TRUNCATE, kind_of_fd(fd), int, real(fd, mode, at, length));
}

int fallocate(int fd, int mode, off_t at, off_t length) { return allocate(fd, mode, at, length); }
int fallocate64(int fd, int mode, off_t at, off_t length) { return allocate(fd, mode, at, length); }

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    AROUND(RENAME, kind_of_path(to), int, real(from, to));
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    AROUND(UNLINK, kind_of_path(path), int, real(path));
}

/* Only files that are written count: reading is what a start does, and damage what rot does. */
static int open_at(int folder, const char *path, int flags, mode_t mode) {
    REAL(int, openat64, int, const char *, int, ...);
    enum kind kind = kind_of_path(path);
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    if (kind != NO_FILE && writes && is_it(OPEN, kind)) {
        if (what != KILL) return refuse();
        if (!after) die();
        real(folder, path, flags, mode);
        die();
    }
    int fd = real(folder, path, flags, mode);
    /* The library's own fclose does not come by here: the number may be another file's by now. */
    if (atomic_load(&failed_descriptor) == fd) atomic_store(&failed_descriptor, -1);
    if (fd >= 0 && fd < DESCRIPTORS_MAX) kind_of[fd] = writes || kind == FOLDER ? kind : NO_FILE;
    return fd;
}

#define MODE(flags)                                              \
    mode_t mode = 0;                                             \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                       \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode = va_arg(rest, mode_t);                             \
        va_end(rest);                                            \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return open_at(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return open_at(folder, path, flags, mode); }

int close(int fd) {
    REAL(int, close, int);
    if (fd >= 0 && fd < DESCRIPTORS_MAX) kind_of[fd] = NO_FILE;
    if (atomic_load(&failed_descriptor) == fd) atomic_store(&failed_descriptor, -1);
    return real(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int result = real(clock, now);
    if (result == 0 && clock_step_ms && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t nanos = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + *clock_step_ms * 1000000;
        now->tv_sec = nanos / 1000000000;
        now->tv_nsec = nanos % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (out) *out = precise.tv_sec;
    return precise.tv_sec;
}
