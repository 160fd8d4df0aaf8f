/* A double of the C library's clock and of its fsync, preloaded into the daemon and its keeper (LD_PRELOAD).
 *
 * CONTROL, a file of two 64-bit integers, says by how many nanoseconds the wall clock is wrong and how long a sync of
 * a file takes at least; it may change at any time. The clock that cannot be set (CLOCK_MONOTONIC, CLOCK_BOOTTIME) is
 * the kernel's. The daemon gives its keeper an environment without LD_PRELOAD: it is added here.
 *
 * Why not the real thing: a time namespace does not have a CLOCK_REALTIME of its own, and setting this machine's clock
 * is felt by all who use it. libfaketime would not follow into the keeper, and looks at its file every ten seconds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define KEEPER "fusemld.executors.process.keeper"
#define MOST_VARIABLES 256

static volatile const int64_t *control;

__attribute__((constructor)) static void attach(void) {
    int file = open(CONTROL, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    void *mapped = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        control = mapped;
}

static int is_settable(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, at);
    if (answer == 0 && control && is_settable(clock)) {
        int64_t now = at->tv_sec * SECOND + at->tv_nsec + control[0];
        at->tv_sec = now / SECOND;
        at->tv_nsec = now % SECOND;
    }
    return answer;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec now;
    int answer = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return answer;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

static void wait_as_told(void) {
    int64_t left = control ? control[1] : 0;
    if (left > 0)
        nanosleep(&(struct timespec){.tv_sec = left / SECOND, .tv_nsec = left % SECOND}, NULL);
}

int fsync(int file) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fsync");
    wait_as_told();
    return real(file);
}

int fdatasync(int file) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fdatasync");
    wait_as_told();
    return real(file);
}

/* The keeper's environment with this library in it, in `more`; of another program, the one that it has. */
static char *const *environment(char *const argv[], char *const envp[], const char *more[MOST_VARIABLES + 2]) {
    int is_keeper = 0, count = 0;
    for (char *const *word = argv; *word; word++)
        is_keeper |= strcmp(*word, KEEPER) == 0;
    while (is_keeper && envp[count] && count < MOST_VARIABLES) {
        more[count] = envp[count];
        count++;
    }
    if (!is_keeper || envp[count])
        return envp;
    more[count] = "LD_PRELOAD=" SELF;
    more[count + 1] = NULL;
    return (char *const *)more;
}

int execve(const char *path, char *const argv[], char *const envp[]) {
    static int (*real)(const char *, char *const[], char *const[]);
    if (!real)
        real = dlsym(RTLD_NEXT, "execve");
    const char *more[MOST_VARIABLES + 2];
    return real(path, argv, environment(argv, envp, more));
}

/* What uvloop starts programs with. In it and in posix_spawn, the C library's own execve is not the one above. */
int execvp(const char *file, char *const argv[]) {
    static int (*real)(const char *, char *const[]);
    if (!real)
        real = dlsym(RTLD_NEXT, "execvp");
    const char *more[MOST_VARIABLES + 2];
    environ = (char **)environment(argv, environ, more);
    return real(file, argv);
}

/* What Python 3.13 starts most programs with. */
int posix_spawn(pid_t *restrict pid, const char *restrict path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *restrict attributes, char *const argv[restrict], char *const envp[restrict]) {
    static int (*real)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                       char *const[], char *const[]);
    if (!real)
        real = dlsym(RTLD_NEXT, "posix_spawn");
    const char *more[MOST_VARIABLES + 2];
    return real(pid, path, actions, attributes, argv, environment(argv, envp, more));
}
