/* See team.h. */

#include "kernels.h"
#include "team.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOOKS = 64, AWAKE_NS = 100000 };

/* What is left of a thread's share: its beginning in the upper half, its end in the lower. Each
   has a cache line of its own. */
typedef struct {
    _Alignas(64) atomic_uint_least64_t left;
} Share;

struct Team {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    atomic_uint jobs, meetings; /* how many there were; only ever compared */
    atomic_int arrived, ended;
    Work *work;
    void *job;
    int64_t threads;
    Share *shares;
    pthread_t others[];
};

typedef struct {
    Team *team;
    int64_t thread;
} Place;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void breathe(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Numbers too small for full precision slow a processor by 40: while a thread works here they are
   zero. Returns the flags as they were. */
static uint64_t flush_denormals(void) {
    uint64_t flags = 0;
#if defined(__x86_64__)
    flags = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr((unsigned)flags | 0x8040);
#elif defined(__aarch64__)
    __asm__ volatile("mrs %0, fpcr" : "=r"(flags));
    __asm__ volatile("msr fpcr, %0" ::"r"(flags | (1 << 24)));
#endif
    return flags;
}

static void give_back(uint64_t flags) {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr((unsigned)flags);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(flags));
#else
    (void)flags;
#endif
}

static void wait_for_other(Team *team, atomic_uint *number, unsigned old) {
    const int64_t until = now_ns() + AWAKE_NS;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (atomic_load_explicit(number, memory_order_acquire) != old)
                return;
            breathe();
        }
    } while (now_ns() < until);
    pthread_mutex_lock(&team->mutex);
    while (atomic_load(number) == old)
        pthread_cond_wait(&team->changed, &team->mutex);
    pthread_mutex_unlock(&team->mutex);
}

static void count_up(Team *team, atomic_uint *number) {
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(number, 1);
    pthread_cond_broadcast(&team->changed);
    pthread_mutex_unlock(&team->mutex);
}

void team_meet(Team *team) {
    if (!team || team->threads == 1)
        return;
    const unsigned old = atomic_load(&team->meetings);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->threads) {
        atomic_store(&team->arrived, 0);
        count_up(team, &team->meetings);
    } else
        wait_for_other(team, &team->meetings, old);
}

static void *other_thread(void *argument) {
    const Place place = *(Place *)argument;
    Team *team = place.team;
    free(argument);
    flush_denormals();
    for (unsigned seen = 0;; seen++) {
        wait_for_other(team, &team->jobs, seen);
        if (atomic_load(&team->ended))
            return NULL;
        team->work(team->job, team, place.thread, team->threads);
        team_meet(team);
    }
}

void team_deal(Team *team, int64_t thread, int64_t first, int64_t last) {
    atomic_store(&team->shares[thread].left, (uint64_t)first << 32 | (uint64_t)last);
}

/* Its owner takes from the beginning; others from the end, where the owner comes last, and at most
   half of what is left. */
static int64_t take(Share *share, int own, int64_t most, int64_t *first) {
    uint_least64_t left = atomic_load(&share->left);
    for (;;) {
        const int64_t begin = (int64_t)(left >> 32), end = (int64_t)(left & UINT32_MAX);
        const int64_t there = own ? end - begin : (end - begin + 1) / 2;
        const int64_t some = there < most ? there : most;
        if (some <= 0)
            return 0;
        *first = own ? begin : end - some;
        const uint64_t rest = own ? left + ((uint64_t)some << 32) : left - (uint64_t)some;
        if (atomic_compare_exchange_weak(&share->left, &left, rest))
            return some;
    }
}

int64_t team_take(Team *team, int64_t thread, int64_t most, int64_t *first) {
    int64_t some = take(&team->shares[thread], 1, most, first);
    for (int64_t k = 1; !some && k < team->threads; k++)
        some = take(&team->shares[(thread + k) % team->threads], 0, most, first);
    return some;
}

EXPORT Team *team_begin(int64_t threads) {
    Team *team = calloc(1, sizeof(Team) + (size_t)threads * sizeof(pthread_t));
    Share *shares = aligned_alloc(_Alignof(Share), (size_t)threads * sizeof(Share));
    if (!team || !shares) {
        free(team);
        free(shares);
        return NULL;
    }
    memset(shares, 0, (size_t)threads * sizeof(Share));
    team->shares = shares;
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->changed, NULL);
    sigset_t all, own; /* signals are for the threads of others */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &own);
    for (team->threads = 1; team->threads < threads; team->threads++) {
        Place *place = malloc(sizeof(Place));
        if (!place)
            break;
        *place = (Place){team, team->threads};
        if (pthread_create(&team->others[team->threads - 1], NULL, other_thread, place)) {
            free(place);
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &own, NULL);
    return team;
}

EXPORT void team_end(Team *team) {
    if (!team)
        return;
    atomic_store(&team->ended, 1);
    count_up(team, &team->jobs);
    for (int64_t k = 0; k < team->threads - 1; k++)
        pthread_join(team->others[k], NULL);
    pthread_cond_destroy(&team->changed);
    pthread_mutex_destroy(&team->mutex);
    free(team->shares);
    free(team);
}

void team_work(Team *team, Work *work, void *job) {
    if (team && team->threads > 1) {
        team->work = work, team->job = job;
        count_up(team, &team->jobs);
    }
    const uint64_t flags = flush_denormals();
    work(job, team, 0, team ? team->threads : 1);
    give_back(flags);
    team_meet(team);
}
