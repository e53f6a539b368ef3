"""What Spillway is measured by. `python -m benchmarks` runs it; `benchmarks/README.md` shows what came out."""
