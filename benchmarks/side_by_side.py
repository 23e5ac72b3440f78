"""The same work in several processes at the same time.

All begin behind a barrier. One whose time is over continues, uncounted, until all have finished, so that each is
measured beside all others.
"""
import multiprocessing
import multiprocessing.connection
import time


def side_by_side(make, count, seconds):
    """Call functions in `count` processes at the same time, each again and again for so many seconds.

    Args:
        make: picklable; in each process it returns (function that works and says how much, function that waits until
            the work is done).

    Returns:
        [(amount, seconds)] of each process.

    Raises:
        RuntimeError: one of them failed; all others are stopped.
    """
    context = multiprocessing.get_context("spawn")  # a fork cannot use CUDA
    start, finished = context.Barrier(count), context.Value("i", 0)
    processes, pipes = [], []
    for _ in range(count):
        pipe, theirs = context.Pipe(duplex=False)
        processes.append(context.Process(target=work, args=(make, seconds, start, finished, theirs), daemon=True))
        processes[-1].start()
        theirs.close()  # so that a process that is killed closes its pipe
        pipes.append(pipe)
    results, failures = {}, []
    waiting = dict(zip(pipes, range(count)))
    while waiting and not failures:
        for pipe in multiprocessing.connection.wait(list(waiting)):
            number = waiting.pop(pipe)
            try:
                result = pipe.recv()
            except EOFError:
                result = "it was killed; is the memory too small?"
            if isinstance(result, str):
                failures.append(f"process {number + 1} of {count} failed: {result}")
            else:
                results[number] = result
    for process in processes:
        if failures:
            process.terminate()  # first: a killed client can leave MPS unable to serve the others
            process.join(5)
            process.kill()
        process.join()
    if failures:
        raise RuntimeError(failures[0])
    return [results[number] for number in range(count)]


def work(make, seconds, start, finished, pipe):
    """One process: make the function, warm up, wait for the others, be timed, and continue until all are done."""
    try:
        function, wait = make()
        for _ in range(3):  # libraries choose their algorithms, a CUDA graph is recorded and checked
            function()
        wait()
        start.wait()
        amount, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds or not amount:
            amount += function()
            wait()
        elapsed = time.perf_counter() - began
        with finished.get_lock():
            finished.value += 1
        while finished.value < start.parties:
            function()
            wait()
        pipe.send((amount, elapsed))
    except BaseException as error:
        pipe.send((str(error) or type(error).__name__).splitlines()[0])
        raise
