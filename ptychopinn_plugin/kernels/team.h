/* Threads that work together on one thing after another, a fraction of a millisecond each.

   To wake a thread that sleeps takes about as long as such a piece of work, so they look out for
   the next a while before they sleep. They leave the Python interpreter alone.
*/

#ifndef TEAM_H
#define TEAM_H

#include <stdint.h>

typedef struct Team Team;
typedef void Work(void *job, Team *team, int64_t thread, int64_t threads);

/* A team of the calling thread and others; NULL where there is no memory, and of fewer where the
   system has no more threads. */
Team *team_begin(int64_t threads);

/* Ends the others. */
void team_end(Team *team);

/* Let all work on a job; returns when they are done. NULL stands for a team of one. */
void team_work(Team *team, Work *work, void *job);

/* Called by each while it works: returns when all have called. */
void team_meet(Team *team);

/* A thread's share of what there is to do, `first` to before `last`: each deals its own, and then
   all take from them until nothing is left. */
void team_deal(Team *team, int64_t thread, int64_t first, int64_t last);

/* Takes at most so many of this thread's share or, where that is done, of another's; returns how
   many, 0 at the end, and where they begin. */
int64_t team_take(Team *team, int64_t thread, int64_t most, int64_t *first);

#endif
