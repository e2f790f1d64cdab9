"""A local images server with every vendor's shapes, over real HTTP: the prompt says what happens."""

import base64
import io
import json
import struct
import threading
import zlib
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

SAFETY = "Your request was rejected as a result of our safety system."
AZURE_ACCOUNT = (
    "Your resource has been temporarily blocked because we detected behavior that may violate our content policy."
)


def picture(seed=0, size=64):
    rng = np.random.default_rng(seed)
    return encoded(Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)))


def plain(colour, size=64, kind="PNG"):
    return encoded(Image.new("RGB", (size, size), colour), kind)


def encoded(image, kind="PNG", **settings):
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def b64(data):
    return base64.b64encode(data).decode()


def png_of_size(width, height):
    """A small PNG file that claims any size and holds zeros: what a bomb looks like."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    squeezed = zlib.compressobj(9)
    rows = b"".join(squeezed.compress(bytes(width + 1)) for _ in range(height)) + squeezed.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb():
    """A PNG of 30,000 x 30,000 pixels in its header alone."""
    data = png_of_size(4, 4)
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


def error(code=None, message=SAFETY, kind="invalid_request_error", **more):
    return {"error": {"code": code, "message": message, "type": kind, "param": None, **more}}


def openai(*items):
    return {"created": 1, "data": list(items)}


def shown(data, **more):
    return {"b64_json": b64(data), **more}


def gemini(*parts, reason="STOP", **more):
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": reason, **more}]}


# dialect, name, status, body, outcome of one image asked for. Every refusal mechanism of every vendor, and what only
# looks like one.
CASES = [
    ("openai", "drawn", 200, openai(shown(picture(1))), "delivered"),
    ("openai", "dalle-policy", 400, error("content_policy_violation"), "blocked_input"),
    ("openai", "dalle-old", 400, error(None), "blocked_input"),
    (
        "openai", "gpt-image-input", 400,
        error("moderation_blocked", SAFETY + " safety_violations=[violence].", "image_generation_user_error",
              moderation_details={"moderation_stage": "input", "categories": ["violence"]}),
        "blocked_input",
    ),
    (
        "openai", "gpt-image-output", 400,
        error("moderation_blocked", "Rejected.", "image_generation_user_error",
              moderation_details={"moderation_stage": "output", "categories": ["sexual"]}),
        "blocked_output",
    ),
    ("openai", "generated-flagged", 400,
     error(None, "The generated image was filtered by our content filters.", "image_generation_user_error"),
     "blocked_output"),
    ("openai", "error-in-200", 200, error("moderation_blocked"), "blocked_input"),
    ("openai", "quota-in-200", 200, error("insufficient_quota", "You exceeded your quota."), "infrastructure_error"),
    ("openai", "rate-limit", 429, error("rate_limit_exceeded", "Rate limit reached"), "infrastructure_error"),
    ("openai", "server", 500, error("server_error", "The server had an error"), "infrastructure_error"),
    ("openai", "server-says-nsfw", 503, error(None, "NSFW content detected"), "infrastructure_error"),
    ("openai", "bad-key", 401, error("invalid_api_key", "Incorrect API key provided"), "infrastructure_error"),
    ("openai", "no-credit", 402, error(None, "Payment required by our policies"), "infrastructure_error"),
    ("openai", "billing", 400, error("billing_hard_limit_reached", "Billing hard limit"), "infrastructure_error"),
    ("openai", "malformed", 400, error("invalid_size", "Invalid size 7x7"), "infrastructure_error"),
    ("openai", "proxy", 400,
     error(None, "litellm: rejected as a result of our content policy. Your prompt may contain text", "api_error"),
     "blocked_input"),
    ("openai", "server-error-in-200", 200, error("server_error", "Something went wrong"), "infrastructure_error"),
    ("openai", "html", 502, "<html>Bad gateway</html>", "infrastructure_error"),
    ("openai", "cut-json", 200, '{"created": 1, "data": [{"b64_', "infrastructure_error"),
    ("openai", "cut-base64", 200, openai({"b64_json": b64(picture(2))[:-3]}), "infrastructure_error"),
    ("openai", "cut-picture", 200, openai({"b64_json": b64(picture(2)[:3000])}), "infrastructure_error"),
    ("openai", "bomb", 200, openai({"b64_json": b64(bomb())}), "infrastructure_error"),
    ("openai", "not-a-picture", 200, openai({"b64_json": b64(b"%PDF-1.7 hello")}), "infrastructure_error"),
    ("openai", "empty", 200, openai(), "no_image_unexplained"),
    ("openai", "black", 200, openai(shown(plain("black"))), "blank"),
    ("openai", "nearly-black", 200, openai(shown(plain((5, 6, 5), kind="JPEG"))), "blank"),
    ("openai", "white", 200, openai(shown(plain("white"))), "blank"),
    ("openai", "a solid black rectangle", 200, openai(shown(plain("black"))), "delivered"),
    ("openai", "an empty white canvas", 200, openai(shown(plain("white"))), "delivered"),
    ("openai", "elaborated", 200,
     openai(shown(picture(3), revised_prompt="elaborated, in warm evening light with long shadows")), "delivered"),
    ("openai", "a bloody battlefield with fallen soldiers", 200,
     openai(shown(picture(4), revised_prompt="a peaceful meadow with wild flowers")), "rewritten"),
    ("azure", "policy", 400,
     error("content_policy_violation", SAFETY, inner_error={
         "code": "ResponsibleAIPolicyViolation", "content_filter_results": {"violence": {"filtered": True}}}),
     "blocked_input"),
    ("azure", "content-filter", 400, error("contentFilter", "Your task failed as a result of our safety system."),
     "blocked_input"),
    ("azure", "output-filter", 400,
     error("content_policy_violation", "Generated image was filtered as a result of our safety system."),
     "blocked_output"),
    ("azure", "per-image", 200, openai({"content_filter_results": {"sexual": {"filtered": True}}}), "blocked_output"),
    ("azure", "account", 403, {"error": {"code": "Forbidden", "message": AZURE_ACCOUNT}}, "infrastructure_error"),
    ("azure", "account-by-proxy", 400, error("content_policy_violation", AZURE_ACCOUNT), "infrastructure_error"),
    ("imagen", "drawn", 200, {"predictions": [{"bytesBase64Encoded": b64(picture(5)), "mimeType": "image/png"}]},
     "delivered"),
    ("imagen", "silently-filtered", 200, {}, "blocked_output"),
    ("imagen", "rai-output", 200,
     {"predictions": [{"raiFilteredReason": "Unable to show generated images. Support codes: 56562880"}]},
     "blocked_output"),
    ("imagen", "rai-input", 200,
     {"predictions": [{"raiFilteredReason": "The prompt could not be submitted. Support codes: 29310472"}]},
     "blocked_input"),
    ("imagen", "rejected", 400,
     {"error": {"code": 400, "status": "INVALID_ARGUMENT",
                "message": "The response is blocked, as it may violate our policies. Error Code: 58061214"}},
     "blocked_input"),
    ("imagen", "quota", 429, {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded"}},
     "infrastructure_error"),
    ("imagen", "bad-argument", 400,
     {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "sampleCount must be at most 4"}},
     "infrastructure_error"),
    ("gemini", "drawn", 200, gemini({"text": "Here"}, {"inlineData": {"mimeType": "image/png", "data": b64(picture(6))}}),
     "delivered"),
    ("gemini", "prompt-blocked", 200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, "blocked_input"),
    ("gemini", "image-safety", 200, gemini(reason="IMAGE_SAFETY"), "blocked_output"),
    ("gemini", "image-prohibited", 200,
     gemini(reason="IMAGE_PROHIBITED_CONTENT", finishMessage="Could not be generated. Support code: 42876398"),
     "blocked_input"),
    ("gemini", "recitation", 200, gemini(reason="IMAGE_RECITATION"), "blocked_output"),
    ("gemini", "safety", 200, gemini(reason="SAFETY"), "blocked_output"),
    ("gemini", "image-other", 200, gemini(reason="IMAGE_OTHER"), "no_image_unexplained"),
    ("gemini", "no-image", 200, gemini(reason="NO_IMAGE"), "no_image_unexplained"),
    ("gemini", "declined", 200, gemini({"text": "I'm sorry, but I can't create that image."}), "declined_in_text"),
    ("gemini", "asks-back", 200, gemini({"text": "Here are three ideas for the composition of your picture."}),
     "no_image_unexplained"),
    ("openrouter", "drawn", 200,
     {"choices": [{"finish_reason": "stop", "message": {"content": "", "images": [
         {"image_url": {"url": "data:image/png;base64," + b64(picture(7))}}]}}]}, "delivered"),
    ("openrouter", "refusal-field", 200,
     {"choices": [{"finish_reason": "stop", "message": {"content": None, "refusal": "I can't help with that."}}]},
     "declined_in_text"),
    ("openrouter", "filtered", 200, {"choices": [{"finish_reason": "content_filter", "message": {"content": ""}}]},
     "blocked_output"),
    ("openrouter", "declined", 200,
     {"choices": [{"finish_reason": "stop", "message": {"content": "I cannot generate this image."}}]},
     "declined_in_text"),
    ("bfl", "request", 200, {"id": "t", "status": "Request Moderated", "details": {"Moderation Reasons": ["Violence"]}},
     "blocked_input"),
    ("bfl", "content", 200, {"id": "t", "status": "Content Moderated", "result": None}, "blocked_output"),
    ("bfl", "failed", 200, {"id": "t", "status": "Error", "result": None}, "infrastructure_error"),
    ("bfl", "lost", 200, {"id": "t", "status": "Task not found"}, "infrastructure_error"),
    ("bfl", "credits", 402, {"detail": "Insufficient credits"}, "infrastructure_error"),
    ("fal", "drawn", 200, {"images": [{"url": "data:image/png;base64," + b64(picture(8))}], "has_nsfw_concepts": [False]},
     "delivered"),
    ("fal", "blacked-out", 200,
     {"images": [{"url": "data:image/png;base64," + b64(plain("black"))}], "has_nsfw_concepts": [True]},
     "blocked_output"),
    ("fal", "black-but-passed", 200,
     {"images": [{"url": "data:image/png;base64," + b64(plain("black"))}], "has_nsfw_concepts": [False]},
     "no_image_unexplained"),
    ("fal", "policy", 422,
     {"detail": [{"loc": ["body", "prompt"], "msg": "The content could not be processed", "type": "content_policy_violation"}]},
     "blocked_input"),
    ("fal", "validation", 422, {"detail": [{"loc": ["body"], "msg": "field required", "type": "missing"}]},
     "infrastructure_error"),
    ("replicate", "drawn", 201, {"status": "succeeded", "output": ["data:image/png;base64," + b64(picture(9))]},
     "delivered"),
    ("replicate", "nsfw", 201,
     {"status": "failed", "output": None, "error": "NSFW content detected. Try running it again, or a different prompt."},
     "blocked_output"),
    ("replicate", "e005", 201,
     {"status": "failed", "output": None, "error": "The input or output was flagged as sensitive. (E005)"},
     "blocked_input"),
    ("replicate", "all-filtered", 201,
     {"status": "succeeded", "output": [], "logs": "step 4/4\nNSFW content detected in image 0"}, "blocked_output"),
    ("replicate", "empty", 201, {"status": "succeeded", "output": []}, "no_image_unexplained"),
    ("replicate", "crashed", 201, {"status": "failed", "error": "CUDA out of memory"}, "infrastructure_error"),
    ("stability", "drawn", 200, {"image": b64(picture(10)), "finish_reason": "SUCCESS", "seed": 1}, "delivered"),
    ("stability", "filtered-blurred", 200, {"image": b64(picture(11)), "finish_reason": "CONTENT_FILTERED", "seed": 1},
     "blocked_output"),
    ("stability", "moderated", 403,
     {"id": "x", "name": "content_moderation",
      "errors": ["Your request was flagged by our content moderation system, as a result your request was denied."]},
     "blocked_input"),
    ("stability", "credits", 402, {"id": "x", "name": "payment_required", "errors": ["You lack sufficient credits"]},
     "infrastructure_error"),
    ("stability", "artifact", 200, {"artifacts": [{"base64": b64(picture(12)), "finishReason": "CONTENT_FILTERED"}]},
     "blocked_output"),
    ("bytedance", "drawn", 200, openai(shown(picture(13))), "delivered"),
    ("bytedance", "input", 400,
     error("InputTextSensitiveContentDetected", "The request failed because the input text may contain sensitive information."),
     "blocked_input"),
    ("bytedance", "output", 400, error("OutputImageSensitiveContentDetected", "may contain sensitive information."),
     "blocked_output"),
    ("bytedance", "per-image", 200,
     openai({"error": {"code": "OutputImageSensitiveContentDetected", "message": "blocked"}}), "blocked_output"),
    ("bytedance", "severe", 400, error("SensitiveContentDetected.SevereViolation", "blocked"), "blocked_input"),
    ("bytedance", "overdue", 403, error("AccountOverdueError", "The account has an overdue balance"),
     "infrastructure_error"),
    ("xai", "drawn", 200, openai(shown(picture(14), respect_moderation=True)), "delivered"),
    ("xai", "flagged", 200, openai({"b64_json": "", "url": "", "respect_moderation": False}), "blocked_output"),
    ("xai", "empty", 200, openai(), "blocked_output"),
]  # fmt: skip
BY_PROMPT = {f"{dialect}: {name}": (status, body) for dialect, name, status, body, _ in CASES}


class Handler(BaseHTTPRequestHandler):
    """Answers as its server was told to, and counts what was asked."""

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        request = _json(raw)
        prompt = prompt_of(request, raw)
        number = self.counted(prompt)
        answers = self.server.answers
        found = answers(prompt, request) if callable(answers) else answers[prompt]
        self.reply(*(found[min(number, len(found) - 1)] if isinstance(found, list) else found))

    def do_GET(self):
        number = self.counted(self.path)
        if self.path.startswith("/poll/"):
            self.reply(200, {"id": "t", "status": "Pending"} if number == 0 else self.finished())
        elif self.path.startswith("/picture/"):
            self.reply(200, picture(77))
        else:
            self.reply(404, {"detail": "nothing here"})

    def finished(self):
        if self.path.endswith("moderated"):
            return {"id": "t", "status": "Content Moderated"}
        where = f"http://127.0.0.1:{self.server.server_port}/picture/1"
        return {"id": "t", "status": "Ready", "result": {"sample": where, "prompt": ""}}

    def counted(self, what):
        with self.server.lock:
            self.server.asked[what] += 1
            return self.server.asked[what] - 1

    def reply(self, status, body):
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", "image/png" if isinstance(body, bytes) else "application/json")
        self.send_header("content-length", str(len(data)))
        if status == 429:
            self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):  # a client that went away
        pass


@contextmanager
def vendor_server(answers=BY_PROMPT):
    """Serve `answers` (prompt → status and body, a list of these, or a function of the request); yields (url, asked)."""
    server = QuietServer(("127.0.0.1", 0), Handler)
    server.answers, server.asked, server.lock = answers, Counter(), threading.Lock()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def prompt_of(request, raw):
    """The prompt of a request in any vendor's shape."""
    if request is None:  # a form
        return raw.decode("utf-8", "replace").split('name="prompt"')[1].split("\r\n\r\n")[1].split("\r\n")[0]
    if "instances" in request:
        return request["instances"][0]["prompt"]
    if "contents" in request:
        return request["contents"][0]["parts"][0]["text"]
    if "messages" in request:
        return request["messages"][-1]["content"]
    return request.get("input", request)["prompt"]


def _json(raw):
    try:
        return json.loads(raw)
    except ValueError:
        return None
