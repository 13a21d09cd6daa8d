"""The code with which threads share the work of a call.

The thread that calls (number 0) runs the whole program. Where a kernel is worth sharing, its units are cut
into pieces, the same number for every thread, and that is said in the memory of the *team*:

    share(team, function, context, each, record)    have ``function(context, thread, piece)`` called for every
                                                    piece, by the team if that is quicker
    work_forever(team, thread)                      what a worker does

Every thread does its own pieces first, so that rows of one layer stay in the cache of the core that made
them, then takes over pieces that nobody has begun. The caller goes on when all are done. So nobody waits for
a thread that the operating system has put aside, unless in the midst of a piece; and a team without workers
computes all the same. Results do not depend on who does what: units are independent of each other.

How much there is to win depends on what else the machine does, so it is measured. Every kernel has a record
of how long it takes alone and shared, and is shared if that is quicker. The team has a balance of what
sharing has won or lost lately: a worker that is put aside in the midst of a piece, because another program
wants its core, holds the caller up for milliseconds. When the balance is negative, the caller works alone for
a while, and each time for twice as long, until sharing wins again. What was learnt of shared kernels holds
for a season of half a second or so; then all are tried again, together: a worker that sleeps must be woken,
so one kernel alone says little.
"""

from __future__ import annotations

from string import Template

from chainrule.backends.native.emit import Function
from chainrule.backends.native.values import INDEX, POINTER, Index, Value
from chainrule.backends.native.waiting import waiting

SPINS = 1000
"""Looks of a caller before it goes to sleep: some 20 µs, a few times what it costs to be woken."""

PATIENT = 10_000
"""Looks of a worker: it should be awake when the next kernel is shared, even if a few are not."""
RECORD = 5
"""Words of a record: ticks alone, ticks shared, calls; the season, and how often it was shared in it.

Threads that call at once may mix it up: no harm."""
ALONE_AT_FIRST = 4
"""Calls of a kernel before it is shared: how long it takes alone is what sharing is compared with."""
TRIALS = 6
"""Times that a kernel is shared in a season before it is judged."""
AGAIN, REFRESH = 15, 1023
"""Every so often plus one it is shared though that took longer, and done alone though that took longer."""
MOST_WON, MOST_LOST = 25, 24
"""Ticks, as powers of two, some milliseconds: what the balance can reach, and when sharing ends for now."""
SHORTEST, LONGEST = 27, 30
"""Ticks, as powers of two, that the caller then works alone: some hundredths to tenths of a second."""
SEASON = 31
"""Ticks of a season, as a power of two."""

# Bytes in a team's memory; what different threads write lies on different cache lines.
SHARE, THREADS = 0, 8
"""The address of `share`; the number of threads, the caller included."""
CLAIMS = 384
"""Where the threads' claims begin, a line for each: the number of the sharing, and pieces that are begun."""
_LAYOUT = {
    "threads": THREADS,
    "function": 64, "context": 72, "each": 80, "total": 88,  # what is shared; all pieces so far
    "alone": 96, "balance": 104, "penalty": 112,  # when the caller may share again; ticks won; ticks alone
    "season": 136, "season_end": 144,  # behind `sequence`, which only the caller writes too
    "sequence": 128,  # number of the sharing
    "workers_sleep": 192,  # 1 when a worker may sleep
    "completed": 256,  # pieces that are done
    "caller_sleeps": 320,  # 1 when the caller may sleep
    "claims": CLAIMS,
}  # fmt: skip


def team_bytes(threads: int) -> int:
    """The size of a team's memory; zeros, but for the first two fields."""
    return CLAIMS + 64 * threads


def call_share(function: Function, team: Value, piece: str, context: Value, each: Index) -> None:
    """Code for: have ``@piece(context, thread, piece)`` called for `each` pieces per thread."""
    share = function.load(function.at(team, SHARE, "i8"), POINTER)
    record = f"{piece}_record"
    function.module.variable(record, f"[{RECORD} x i64]", "zeroinitializer")
    arguments = f"{team}, ptr @{piece}, {context}, {INDEX} {function.index(each).text}, ptr @{record}"
    function.line(f"call void {share.text}({arguments})")


def runtime(triple: str) -> str:
    """`share` and `work_forever`, and what they call, as LLVM assembly."""
    numbers = {
        "spins": SPINS, "patient": PATIENT, "at_first": ALONE_AT_FIRST, "trials": TRIALS,
        "again": AGAIN, "refresh": REFRESH,
        "most_won": 1 << MOST_WON, "most_lost": -1 << MOST_LOST, "shortest": 1 << SHORTEST,
        "longest": 1 << LONGEST, "season_ticks": 1 << SEASON,
    }  # fmt: skip
    return Template(_RUNTIME).substitute(_LAYOUT | numbers) + waiting(triple)


_RUNTIME = """
; Have `each` pieces per thread of a function done, by the team or by the caller alone, and learn from it.
define void @share(ptr %team, ptr %function, ptr %context, i64 %each, ptr %record) nounwind {
entry:
  %until.p = getelementptr i8, ptr %team, i64 $alone
  %shared.r = getelementptr i8, ptr %record, i64 8
  %calls.r = getelementptr i8, ptr %record, i64 16
  %season.r = getelementptr i8, ptr %record, i64 24
  %tried.r = getelementptr i8, ptr %record, i64 32
  %alone = load atomic i64, ptr %record monotonic, align 8
  %shared = load atomic i64, ptr %shared.r monotonic, align 8
  %calls = load atomic i64, ptr %calls.r monotonic, align 8
  %calls.next = add i64 %calls, 1
  store atomic i64 %calls.next, ptr %calls.r monotonic, align 8
  %until = load i64, ptr %until.p
  %start = call i64 @clock()
  %season = call i64 @season(ptr %team, i64 %start)
  %judged.in = load atomic i64, ptr %season.r monotonic, align 8
  %tried.before = load atomic i64, ptr %tried.r monotonic, align 8
  %same = icmp eq i64 %judged.in, %season
  %tried = select i1 %same, i64 %tried.before, i64 0
  %learning = icmp ult i64 %calls, $at_first
  %waiting = icmp ult i64 %start, %until
  %slower = icmp ugt i64 %shared, %alone
  %judged = icmp uge i64 %tried, $trials
  %some = and i64 %calls, $again
  %not.again = icmp ne i64 %some, 0
  %lost = and i1 %slower, %judged
  %unwilling = and i1 %lost, %not.again
  %rare = and i64 %calls, $refresh
  %refreshed = icmp eq i64 %rare, 0
  %no = or i1 %learning, %waiting
  %no.no = or i1 %unwilling, %refreshed
  %not = or i1 %no, %no.no
  %clockless = icmp eq i64 %start, 0
  %yes = xor i1 %not, true
  %together = or i1 %clockless, %yes
  br i1 %together, label %by_team, label %by_caller
by_caller:
  call void @do_alone(ptr %team, ptr %function, ptr %context, i64 %each)
  %caller.end = call i64 @clock()
  %caller.took = sub i64 %caller.end, %start
  %first = icmp eq i64 %calls, 0
  %less = icmp ult i64 %caller.took, %alone
  %lower = or i1 %first, %less
  %least = select i1 %lower, i64 %caller.took, i64 %alone
  %alone.mean = call i64 @towards(i64 %alone, i64 %caller.took, i64 %alone)
  %alone.new = select i1 %learning, i64 %least, i64 %alone.mean
  store atomic i64 %alone.new, ptr %record monotonic, align 8
  ret void
by_team:
  call void @do_together(ptr %team, ptr %function, ptr %context, i64 %each)
  %team.end = call i64 @clock()
  %team.took = sub i64 %team.end, %start
  %tried.next = add i64 %tried, 1
  store atomic i64 %season, ptr %season.r monotonic, align 8
  store atomic i64 %tried.next, ptr %tried.r monotonic, align 8
  %unshared = icmp eq i64 %tried, 0
  %shared.old = select i1 %unshared, i64 %team.took, i64 %shared
  %shared.new = call i64 @towards(i64 %shared.old, i64 %team.took, i64 %alone)
  store atomic i64 %shared.new, ptr %shared.r monotonic, align 8
  %won = sub i64 %alone, %team.took
  call void @settle(ptr %team, i64 %won, i64 %team.end)
  ret void
}

; The number of the season, which begins at 1.
define internal i64 @season(ptr %team, i64 %now) nounwind {
entry:
  %season.p = getelementptr i8, ptr %team, i64 $season
  %end.p = getelementptr i8, ptr %team, i64 $season_end
  %season = load i64, ptr %season.p
  %end = load i64, ptr %end.p
  %over = icmp uge i64 %now, %end
  br i1 %over, label %begin, label %leave
begin:
  %next = add i64 %season, 1
  %until = add i64 %now, $season_ticks
  store i64 %next, ptr %season.p
  store i64 %until, ptr %end.p
  ret i64 %next
leave:
  ret i64 %season
}

; A mean that follows what comes, but is not carried away by a single time of more than twice `usual`.
define internal i64 @towards(i64 %mean, i64 %took, i64 %usual) nounwind {
  %most = shl i64 %usual, 1
  %outlier = icmp ugt i64 %took, %most
  %taken = select i1 %outlier, i64 %most, i64 %took
  %thrice = mul i64 %mean, 3
  %sum = add i64 %thrice, %taken
  %new = lshr i64 %sum, 2
  ret i64 %new
}

; Add to the balance of the team what sharing has won, and end sharing for a while when too much is lost.
define internal void @settle(ptr %team, i64 %won, i64 %now) nounwind {
entry:
  %until.p = getelementptr i8, ptr %team, i64 $alone
  %balance.p = getelementptr i8, ptr %team, i64 $balance
  %penalty.p = getelementptr i8, ptr %team, i64 $penalty
  %before = load i64, ptr %balance.p
  %sum = add i64 %before, %won
  %high = icmp sge i64 %sum, $most_won
  %balance = select i1 %high, i64 $most_won, i64 %sum
  store i64 %balance, ptr %balance.p
  br i1 %high, label %forgive, label %look
forgive:
  store i64 0, ptr %penalty.p
  ret void
look:
  %low = icmp slt i64 %balance, $most_lost
  br i1 %low, label %punish, label %leave
punish:
  %old = load i64, ptr %penalty.p
  %double = shl i64 %old, 1
  %short = icmp ult i64 %double, $shortest
  %longer = select i1 %short, i64 $shortest, i64 %double
  %long = icmp ugt i64 %longer, $longest
  %penalty = select i1 %long, i64 $longest, i64 %longer
  %until = add i64 %now, %penalty
  store i64 %penalty, ptr %penalty.p
  store i64 %until, ptr %until.p
  store i64 0, ptr %balance.p
  %end.p = getelementptr i8, ptr %team, i64 $season_end
  store i64 %until, ptr %end.p
  ret void
leave:
  ret void
}

; All pieces, by the caller.
define internal void @do_alone(ptr %team, ptr %function, ptr %context, i64 %each) nounwind {
entry:
  %threads.p = getelementptr i8, ptr %team, i64 $threads
  %threads = load i64, ptr %threads.p
  %pieces = mul i64 %each, %threads
  br label %next
next:
  %piece = phi i64 [ 0, %entry ], [ %piece.next, %one ]
  %left = icmp ult i64 %piece, %pieces
  br i1 %left, label %one, label %leave
one:
  call void %function(ptr %context, i64 0, i64 %piece)
  %piece.next = add i64 %piece, 1
  br label %next
leave:
  ret void
}

; All pieces, by all threads; returns when all are done.
define internal void @do_together(ptr %team, ptr %function, ptr %context, i64 %each) nounwind {
entry:
  %threads.p = getelementptr i8, ptr %team, i64 $threads
  %threads = load i64, ptr %threads.p
  %function.p = getelementptr i8, ptr %team, i64 $function
  %context.p = getelementptr i8, ptr %team, i64 $context
  %each.p = getelementptr i8, ptr %team, i64 $each
  %total.p = getelementptr i8, ptr %team, i64 $total
  %sequence.p = getelementptr i8, ptr %team, i64 $sequence
  %completed.p = getelementptr i8, ptr %team, i64 $completed
  %workers_sleep.p = getelementptr i8, ptr %team, i64 $workers_sleep
  %caller_sleeps.p = getelementptr i8, ptr %team, i64 $caller_sleeps
  store atomic ptr %function, ptr %function.p monotonic, align 8
  store atomic ptr %context, ptr %context.p monotonic, align 8
  store atomic i64 %each, ptr %each.p monotonic, align 8
  %before = load atomic i64, ptr %sequence.p monotonic, align 8
  %sequence = add i64 %before, 1
  %none = shl i64 %sequence, 16
  br label %open
open:
  %owner = phi i64 [ 0, %entry ], [ %owner.next, %open ]
  %lines = mul i64 %owner, 64
  %claim.offset = add i64 %lines, $claims
  %claim.p = getelementptr i8, ptr %team, i64 %claim.offset
  store atomic i64 %none, ptr %claim.p release, align 8
  %owner.next = add i64 %owner, 1
  %more = icmp ult i64 %owner.next, %threads
  br i1 %more, label %open, label %begin
begin:
  store atomic i64 %sequence, ptr %sequence.p seq_cst, align 8
  call void @rouse(ptr %sequence.p, ptr %workers_sleep.p)
  call void @work(ptr %team, i64 0, i64 %sequence)
  %total.before = load i64, ptr %total.p
  %new = mul i64 %each, %threads
  %total = add i64 %total.before, %new
  store i64 %total, ptr %total.p
  call i64 @await(ptr %completed.p, i64 %total, ptr %caller_sleeps.p, i64 $spins)
  ret void
}

; Take part in every sharing from now on.
define void @work_forever(ptr %team, i64 %thread) nounwind {
entry:
  %sequence.p = getelementptr i8, ptr %team, i64 $sequence
  %workers_sleep.p = getelementptr i8, ptr %team, i64 $workers_sleep
  br label %again
again:
  %seen = phi i64 [ 0, %entry ], [ %sequence, %again ]
  %following = add i64 %seen, 1
  %sequence = call i64 @await(ptr %sequence.p, i64 %following, ptr %workers_sleep.p, i64 $patient)
  call void @work(ptr %team, i64 %thread, i64 %sequence)
  br label %again
}

; Do pieces of a sharing until none is left that nobody has begun. What was read of the sharing holds when a
; claim succeeds: it was said before the claims were opened, and is changed only after all pieces are done.
define internal void @work(ptr %team, i64 %thread, i64 %sequence) nounwind noinline {
entry:
  %function.p = getelementptr i8, ptr %team, i64 $function
  %context.p = getelementptr i8, ptr %team, i64 $context
  %each.p = getelementptr i8, ptr %team, i64 $each
  %threads.p = getelementptr i8, ptr %team, i64 $threads
  %completed.p = getelementptr i8, ptr %team, i64 $completed
  %caller_sleeps.p = getelementptr i8, ptr %team, i64 $caller_sleeps
  %function = load atomic ptr, ptr %function.p monotonic, align 8
  %context = load atomic ptr, ptr %context.p monotonic, align 8
  %each = load atomic i64, ptr %each.p monotonic, align 8
  %threads = load i64, ptr %threads.p
  br label %visit
visit:  ; first its own pieces, then those of the threads after it
  %step = phi i64 [ 0, %entry ], [ %step.next, %exhausted ]
  %far = add i64 %thread, %step
  %less = sub i64 %far, %threads
  %wraps = icmp uge i64 %far, %threads
  %owner = select i1 %wraps, i64 %less, i64 %far
  %lines = mul i64 %owner, 64
  %claim.offset = add i64 %lines, $claims
  %claim.p = getelementptr i8, ptr %team, i64 %claim.offset
  br label %look
look:
  %claim = load atomic i64, ptr %claim.p acquire, align 8
  %of = lshr i64 %claim, 16
  %current = icmp eq i64 %of, %sequence
  br i1 %current, label %choose, label %leave
choose:
  %begun = and i64 %claim, 65535
  %left = icmp ult i64 %begun, %each
  br i1 %left, label %try, label %exhausted
try:
  %claimed = add i64 %claim, 1
  %swap = cmpxchg ptr %claim.p, i64 %claim, i64 %claimed seq_cst seq_cst, align 8
  %won = extractvalue { i64, i1 } %swap, 1
  br i1 %won, label %do, label %look
do:
  %first = mul i64 %owner, %each
  %piece = add i64 %first, %begun
  call void %function(ptr %context, i64 %thread, i64 %piece)
  %done = atomicrmw add ptr %completed.p, i64 1 seq_cst, align 8
  call void @rouse(ptr %completed.p, ptr %caller_sleeps.p)
  br label %look
exhausted:
  %step.next = add i64 %step, 1
  %further = icmp ult i64 %step.next, %threads
  br i1 %further, label %visit, label %leave
leave:
  ret void
}
"""
