"""Many runs of one graph, on one machine or many, by Ray: `rescore[batch]`.

`run_batch` in `batch.py` is the Python interface, `python -m rescore.headless.batch` the command.
Scheduling, processes, retries and the way of files between machines are Ray's. What is written here
says which line goes to whom (`dispatch.py`), what a worker does with it (`worker.py`, and
`server.py` for a running ComfyUI), and what is kept of it (`results.py`, `report.py`).
"""
