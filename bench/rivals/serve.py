"""LitServe's side of BenchmarkRivals: a server whose handler does nothing.

usage: python serve.py PORT
"""

import sys

import litserve


class Noop(litserve.LitAPI):
    def setup(self, device):
        pass

    def predict(self, request):
        return {"output": request["prompt"][:32]}


if __name__ == "__main__":
    litserve.LitServer(Noop(), accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
