"""The usual thing: transformers' generate behind FastAPI, one request at a time under a lock.

python benchmarks/serve_plain.py MODEL_FOLDER [PORT]
"""

import sys
import threading

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer


class Message(BaseModel):
    """One turn."""

    role: str
    content: str


class Request(BaseModel):
    """What is read of a request."""

    model: str
    messages: list[Message]
    max_tokens: int = 64
    temperature: float = 0.0


def build(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lock, app = threading.Lock(), FastAPI()

    @app.post("/v1/chat/completions")
    def complete(request: Request):
        with lock, torch.inference_mode():
            messages = [message.model_dump() for message in request.messages]
            batch = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            written = model.generate(**batch, max_new_tokens=request.max_tokens, do_sample=False)[0]
        new = written[batch["input_ids"].shape[1] :]
        text = tokenizer.decode(new, skip_special_tokens=True)
        return {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": batch["input_ids"].shape[1], "completion_tokens": len(new)},
        }

    return app


if __name__ == "__main__":
    server = uvicorn.Server(uvicorn.Config(build(sys.argv[1]), port=int(sys.argv[2]), log_level="warning"))
    print(f"serving plain on http://127.0.0.1:{sys.argv[2]}/v1", flush=True)
    server.run()
