"""The code with which threads share the work of a call.

The thread that calls (number 0) runs the whole program. Where a kernel is worth sharing, its units are cut
into pieces, the same number for every thread, and that is said in the memory of the *team*:

    share(team, function, context, each, record)    have ``function(context, thread, piece)`` called for every
                                                    piece, by the team if that is quicker
    begin(team, record), end(team, record, start)   around a step, in which kernels are shared or not
    work_forever(team, thread)                      what a worker does

Every thread does its own pieces first, so that rows of one layer stay in the cache of the core that made
them, then takes over pieces that nobody has begun. The caller goes on when all are done. So nobody waits for
a thread that the operating system has put aside, unless in the midst of a piece; and a team without workers
computes all the same. Results do not depend on who does what: units are independent of each other.

How much there is to win depends on what else the machine does, so it is measured, in seasons of half a second
or so. A season begins with a few steps that the caller does alone, then come some in which kernels are
shared; if those took longer (a worker is put aside in the midst of a piece, because another program wants its
core; the cores lie so far apart that bringing the data across takes longer than computing), the caller does
the rest of the season alone. In the same way every kernel has a record of how long it takes alone and shared,
and is shared if that is quicker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from string import Template

from chainrule.backends.native.emit import Function
from chainrule.backends.native.values import INDEX, POINTER, Index, Value
from chainrule.backends.native.waiting import waiting

SPINS = 1000
"""Looks of a caller before it goes to sleep: some 20 µs, a few times what it costs to be woken."""
PATIENT = 10_000
"""Looks of a worker: it should be awake when the next kernel is shared, even if a few are not."""
ALONE, TRIALS, STEPS = 2, 3, 32
"""Steps of a season that the caller does alone; that are shared at least before that is judged; of a season
at least, so that long steps, and those that come one by one, are shared too."""
TRIED, SEASON = 24, 31
"""Ticks, as powers of two, some milliseconds and some tenths of a second: how long sharing is tried at least
before it is judged, and how long a season is."""
KERNEL_TRIALS = 6
"""Times that a kernel is shared in a season before it is judged."""
KERNEL_RECORD = 4
"""Words: ticks alone, ticks shared, times it was shared in the season, number of the season."""
STEP_RECORD = 6
"""Words: ticks alone, ticks of all shared steps of the season, how many those are; number of the season, when
it may end, how many steps it has had.

Threads that call at once may mix records up: no harm."""

# Bytes in a team's memory; what different threads write lies on different cache lines.
SHARE, THREADS, BEGIN, END = 0, 8, 16, 24
"""The addresses of functions; the number of threads, the caller included."""
CLAIMS = 384
"""Where the threads' claims begin, a line for each: the number of the sharing, and pieces that are begun."""
_LAYOUT = {
    "threads": THREADS,
    "function": 64, "context": 72, "each": 80, "total": 88,  # what is shared; all pieces so far
    "caller_at": 112,  # the processor that the caller was on
    "alone": 96, "season": 104,  # 1 when the caller does this step alone; the number of the season
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
    function.module.variable(record, f"[{KERNEL_RECORD} x i64]")
    arguments = f"{team}, ptr @{piece}, {context}, {INDEX} {function.index(each).text}, ptr @{record}"
    function.line(f"call void {share.text}({arguments})")


@contextmanager
def judged(function: Function, team: Value) -> Iterator[None]:
    """Code around a step in which kernels are shared, if that is quicker."""
    record = function.module.variable("step_record", f"[{STEP_RECORD} x i64]")
    begin = function.load(function.at(team, BEGIN, "i8"), POINTER)
    start = function.emit(INDEX, f"call {INDEX} {begin.text}({team}, {record})")
    yield
    end = function.load(function.at(team, END, "i8"), POINTER)
    function.line(f"call void {end.text}({team}, {record}, {start})")


def runtime(triple: str) -> str:
    """These functions, and what they call, as LLVM assembly."""
    numbers = {
        "spins": SPINS, "patient": PATIENT, "alone_steps": ALONE, "trials": TRIALS, "steps": STEPS,
        "tried_ticks": 1 << TRIED, "season_ticks": 1 << SEASON, "kernel_trials": KERNEL_TRIALS,
    }  # fmt: skip
    return Template(_RUNTIME).substitute(_LAYOUT | numbers) + waiting(triple)


_RUNTIME = """
; Begin a step: say whether the caller does it alone. Returns what time it is.
define i64 @begin(ptr %team, ptr %record) nounwind {
entry:
  %total.r = getelementptr i8, ptr %record, i64 8
  %count.r = getelementptr i8, ptr %record, i64 16
  %season.r = getelementptr i8, ptr %record, i64 24
  %until.r = getelementptr i8, ptr %record, i64 32
  %steps.r = getelementptr i8, ptr %record, i64 40
  %alone.p = getelementptr i8, ptr %team, i64 $alone
  %season.p = getelementptr i8, ptr %team, i64 $season
  %now = call i64 @clock()
  %until = load atomic i64, ptr %until.r monotonic, align 8
  %season.before = load atomic i64, ptr %season.r monotonic, align 8
  %steps.before = load atomic i64, ptr %steps.r monotonic, align 8
  %late = icmp uge i64 %now, %until
  %enough = icmp uge i64 %steps.before, $steps
  %over = and i1 %late, %enough
  br i1 %over, label %next, label %decide
next:
  %season.next = add i64 %season.before, 1
  %until.next = add i64 %now, $season_ticks
  store atomic i64 0, ptr %total.r monotonic, align 8
  store atomic i64 0, ptr %count.r monotonic, align 8
  store atomic i64 0, ptr %steps.r monotonic, align 8
  store atomic i64 %season.next, ptr %season.r monotonic, align 8
  store atomic i64 %until.next, ptr %until.r monotonic, align 8
  br label %decide
decide:
  %season = phi i64 [ %season.before, %entry ], [ %season.next, %next ]
  %alone = load atomic i64, ptr %record monotonic, align 8
  %total = load atomic i64, ptr %total.r monotonic, align 8
  %count = load atomic i64, ptr %count.r monotonic, align 8
  %steps = load atomic i64, ptr %steps.r monotonic, align 8
  %early = icmp ult i64 %steps, $alone_steps
  %some = icmp uge i64 %count, $trials
  %long = icmp uge i64 %total, $tried_ticks
  %as.alone = mul i64 %alone, %count
  %slower = icmp ugt i64 %total, %as.alone
  %tried = and i1 %some, %long
  %lost = and i1 %tried, %slower
  %better = or i1 %early, %lost
  %clock = icmp ne i64 %now, 0
  %by.caller = and i1 %better, %clock
  %said = zext i1 %by.caller to i64
  store i64 %said, ptr %alone.p
  store i64 %season, ptr %season.p
  call void @add(ptr %steps.r, i64 1)
  ret i64 %now
}

; End a step that began at `start`: note how long it took.
define void @end(ptr %team, ptr %record, i64 %start) nounwind {
entry:
  %alone.p = getelementptr i8, ptr %team, i64 $alone
  %now = call i64 @clock()
  %took = sub i64 %now, %start
  %said = load i64, ptr %alone.p
  %by.caller = icmp ne i64 %said, 0
  br i1 %by.caller, label %by_caller, label %by_team
by_caller:
  call void @note_alone(ptr %record, i64 %took)
  ret void
by_team:
  %total.r = getelementptr i8, ptr %record, i64 8
  %count.r = getelementptr i8, ptr %record, i64 16
  call void @add(ptr %total.r, i64 %took)
  call void @add(ptr %count.r, i64 1)
  ret void
}

; Have `each` pieces per thread of a function done, by the team or by the caller alone, and learn from it.
define void @share(ptr %team, ptr %function, ptr %context, i64 %each, ptr %record) nounwind {
entry:
  %alone.p = getelementptr i8, ptr %team, i64 $alone
  %season.p = getelementptr i8, ptr %team, i64 $season
  %shared.r = getelementptr i8, ptr %record, i64 8
  %tried.r = getelementptr i8, ptr %record, i64 16
  %season.r = getelementptr i8, ptr %record, i64 24
  %start = call i64 @clock()
  %said = load i64, ptr %alone.p
  %season = load i64, ptr %season.p
  %alone = load atomic i64, ptr %record monotonic, align 8
  %shared = load atomic i64, ptr %shared.r monotonic, align 8
  %tried.before = load atomic i64, ptr %tried.r monotonic, align 8
  %judged.in = load atomic i64, ptr %season.r monotonic, align 8
  %same = icmp eq i64 %judged.in, %season
  %tried = select i1 %same, i64 %tried.before, i64 0
  %by.caller = icmp ne i64 %said, 0
  %slower = icmp ugt i64 %shared, %alone
  %judged = icmp uge i64 %tried, $kernel_trials
  %lost = and i1 %slower, %judged
  %not = or i1 %by.caller, %lost
  br i1 %not, label %by_caller, label %by_team
by_caller:
  call void @do_alone(ptr %team, ptr %function, ptr %context, i64 %each)
  %caller.end = call i64 @clock()
  %caller.took = sub i64 %caller.end, %start
  call void @note_alone(ptr %record, i64 %caller.took)
  ret void
by_team:
  call void @do_together(ptr %team, ptr %function, ptr %context, i64 %each)
  %team.end = call i64 @clock()
  %team.took = sub i64 %team.end, %start
  %tried.next = add i64 %tried, 1
  %first = icmp eq i64 %tried, 0
  %shared.old = select i1 %first, i64 %team.took, i64 %shared
  %shared.new = call i64 @towards(i64 %shared.old, i64 %team.took, i64 %alone)
  store atomic i64 %shared.new, ptr %shared.r monotonic, align 8
  store atomic i64 %tried.next, ptr %tried.r monotonic, align 8
  store atomic i64 %season, ptr %season.r monotonic, align 8
  ret void
}

define internal void @add(ptr %number.r, i64 %more) nounwind {
  %before = load atomic i64, ptr %number.r monotonic, align 8
  %sum = add i64 %before, %more
  store atomic i64 %sum, ptr %number.r monotonic, align 8
  ret void
}

; Note in a record, of a kernel or a step, how long it took alone.
define internal void @note_alone(ptr %record, i64 %took) nounwind {
  %alone = load atomic i64, ptr %record monotonic, align 8
  %first = icmp eq i64 %alone, 0
  %old = select i1 %first, i64 %took, i64 %alone
  %new = call i64 @towards(i64 %old, i64 %took, i64 %old)
  store atomic i64 %new, ptr %record monotonic, align 8
  ret void
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
  %caller_at.p = getelementptr i8, ptr %team, i64 $caller_at
  %here = call i64 @processor()
  store atomic i64 %here, ptr %caller_at.p monotonic, align 8
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

; Take part in every sharing from now on, on another processor than the caller.
define void @work_forever(ptr %team, i64 %thread) nounwind {
entry:
  %caller_at.p = getelementptr i8, ptr %team, i64 $caller_at
  %sequence.p = getelementptr i8, ptr %team, i64 $sequence
  %workers_sleep.p = getelementptr i8, ptr %team, i64 $workers_sleep
  br label %again
again:
  %seen = phi i64 [ 0, %entry ], [ %sequence, %work ]
  %following = add i64 %seen, 1
  %sequence = call i64 @await(ptr %sequence.p, i64 %following, ptr %workers_sleep.p, i64 $patient)
  %caller_at = load atomic i64, ptr %caller_at.p monotonic, align 8
  %here = call i64 @processor()
  %apart = icmp ne i64 %here, %caller_at
  br i1 %apart, label %work, label %move
move:
  call void @leave(i64 %here)
  br label %work
work:
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
