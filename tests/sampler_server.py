"""A small server of vLLM's protocol over our own sampler: what PPO asks of `vllm serve`, and two ways of going wrong."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from rlhf.models.checkpoints import load_policy
from rlhf.sampling.generate import SamplingSettings, generate


class SamplerServer:
    """Serves the model in `folder` at `url`. keeps: parts of weights' names that stay old at a reload; dies_after: answers.

    packs: as vLLM on CPUs, which keeps a tied head at a reload and reads an untied one. processes: --logprobs-mode
    processed_logprobs, else the log-probabilities before top-k and top-p, as vLLM's default.
    """

    def __init__(self, folder, keeps=(), dies_after=None, packs=False, processes=True):
        self.packs, self.processes = packs, processes
        self.folder, self.keeps, self.left, self.answers, self.reloads = folder, keeps, dies_after, 0, 0
        self.model, self.lock = load_policy(folder), threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    if outer.left == 0:
                        self.close_connection = True
                        self.connection.close()
                        return
                    status, body = outer.answer(self.path, content)
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path, content):
        if path == "/collective_rpc" and content == {"method": "reload_weights"}:
            self.reload()
            return 200, {}
        if path == "/reset_prefix_cache":
            return 200, {}
        if path == "/v1/completions" and content["model"] == "policy":
            return 200, {"choices": [self.complete(content)]}
        return 404, {"message": "no such address or model"}

    def reload(self):
        old = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model = load_policy(self.folder)
        self.reloads += 1
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if any(part in name for part in self.keeps):
                    value.copy_(old[name])
            if self.packs and self.model.config.tie_word_embeddings:
                head = self.model.get_output_embeddings()
                head.weight = torch.nn.Parameter(old["lm_head.weight"])

    def complete(self, asked):
        settings = SamplingSettings(
            max_new_tokens=asked["max_tokens"], temperature=asked["temperature"], top_p=asked["top_p"],
            top_k=max(0, asked["top_k"]), processed_logprobs=self.processes,
        )  # fmt: skip
        sample = generate(
            self.model, [asked["prompt"]], settings, stop_ids=frozenset(asked["stop_token_ids"]), seed=asked["seed"],
        )[0]  # fmt: skip
        self.answers += 1
        if self.left is not None:
            self.left -= 1
        return {"token_ids": sample.tokens, "logprobs": {"token_logprobs": sample.logprobs}}

    def close(self):
        self.server.shutdown()
        self.server.server_close()
