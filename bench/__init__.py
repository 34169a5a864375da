"""What the shop costs beside a bare floor and a FastAPI shop: `make bench`. Method and results: docs/benchmarks.md."""
