"""Answers like a vLLM server with token 4 for every token asked for: ``python fake_vllm.py PORT SECONDS_PER_CALL``.

A call whose context begins with 99 is broken off the first time.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

broken = set()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        answers = {"/health": None, "/version": {"version": "0.31.0"}, "/v1/models": {"data": [{"max_model_len": 400}]}}
        self.answer(answers[self.path])

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.path != "/inference/v1/generate":
            return self.answer({"success": True, "results": [None]})
        time.sleep(float(sys.argv[2]))
        first = body["token_ids"][0]
        if first == 99 and first not in broken:
            broken.add(first)
            return self.connection.close()
        count = body["sampling_params"]["max_tokens"]
        logprobs = {"content": [{"logprob": -1.0}] * count}
        choice = {"finish_reason": "length", "token_ids": [4] * count, "logprobs": logprobs}
        self.answer({"choices": [choice], "usage": {"prompt_tokens_details": {"cached_tokens": 1}}})

    def answer(self, value):
        text = b"" if value is None else json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
