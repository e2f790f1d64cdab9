"""The words vendors use when they stop a request or a picture, and those that only sound alike.

Facts from the vendors' references and from recorded answers. A code that is in no table here is never a refusal
by itself: an unknown error of an interface is infrastructure until its message says otherwise.
"""

import re

from demur.images.outcome import ImageOutcome, Stage

Ruling = tuple[ImageOutcome, Stage]
INPUT: Ruling = ("blocked_input", "input")
OUTPUT: Ruling = ("blocked_output", "output")
# Stopped, but the vendor does not say where: filed under the request, with an empty stage.
UNKNOWN: Ruling = ("blocked_input", "")

ERROR_CODES: dict[str, Ruling] = {
    # OpenAI and Azure
    "content_policy_violation": UNKNOWN,
    "moderation_blocked": UNKNOWN,
    "content_filter": UNKNOWN,
    "contentfilter": UNKNOWN,
    "responsibleaipolicyviolation": UNKNOWN,
    "image_content_policy_violation": UNKNOWN,
    "invalid_prompt_safety": INPUT,
    # Stability
    "content_moderation": UNKNOWN,
    "invalid_prompts": INPUT,
    # ByteDance
    "sensitivecontentdetected": INPUT,
    "inputtextsensitivecontentdetected": INPUT,
    "inputimagesensitivecontentdetected": INPUT,
    "outputimagesensitivecontentdetected": OUTPUT,
    "outputtextsensitivecontentdetected": OUTPUT,
    "inputtextriskdetection": INPUT,
    "outputimageriskdetection": OUTPUT,
    "policyviolation": INPUT,
    # Alibaba
    "datainspectionfailed": UNKNOWN,
    "data_inspection_failed": UNKNOWN,
    # Google's web tools
    "public_error_unsafe_generation": OUTPUT,
    "public_error_prominent_people_filter_failed": INPUT,
    # Replicate
    "e005": UNKNOWN,
}
# Of the account, the quota or the key: never about this prompt, whatever else the message says.
ACCOUNT_CODES = frozenset(
    {
        "rate_limit_exceeded", "rate_limit_error", "too_many_requests", "insufficient_quota", "quota_exceeded",
        "billing_hard_limit_reached", "billing_not_active", "invalid_api_key", "authentication_error", "unauthorized",
        "permission_denied", "account_deactivated", "organization_deactivated", "payment_required",
        "resource_exhausted", "unauthenticated", "accountoverdueerror", "invalidaccountstatus", "throttling",
        "arrearage", "service_unavailable", "unavailable", "deadline_exceeded",
    }
)  # fmt: skip
# BFL's polling states; the last two are the end without an image and without a verdict.
STATUS_WORDS: dict[str, Ruling] = {
    "request moderated": INPUT,
    "content moderated": OUTPUT,
}
RUNNING_WORDS = frozenset(
    {"pending", "reasoning", "generating", "starting", "processing", "queued", "in_queue", "in_progress", "running"}
)
FAILED_WORDS = frozenset({"error", "failed", "task not found", "canceled", "cancelled", "aborted"})
DONE_WORDS = frozenset({"ready", "succeeded", "completed", "success"})
# Finish reasons of Gemini and of hosts that answer picture by picture.
FINISH_REASONS: dict[str, Ruling] = {
    "SAFETY": OUTPUT,
    "BLOCKLIST": INPUT,
    "PROHIBITED_CONTENT": INPUT,
    "SPII": INPUT,
    "RECITATION": OUTPUT,
    "IMAGE_SAFETY": OUTPUT,
    "IMAGE_PROHIBITED_CONTENT": OUTPUT,
    "IMAGE_RECITATION": OUTPUT,
    "CONTENT_FILTERED": OUTPUT,
    "CONTENT_FILTER": OUTPUT,
}
UNEXPLAINED_REASONS = frozenset({"IMAGE_OTHER", "NO_IMAGE", "OTHER", "FINISH_REASON_UNSPECIFIED", "LANGUAGE"})

_ACCOUNT = re.compile(
    r"(?:resource|subscription|account|organi[sz]ation) (?:has been |was |is )?(?:temporarily )?(?:blocked|suspended|"
    r"disabled|deactivated|banned)|access (?:to .{0,40})?(?:has been |was )?(?:revoked|terminated)|verify your "
    r"(?:organi[sz]ation|account)",
    re.IGNORECASE,
)
_TRAFFIC = re.compile(
    r"rate.?limit|too many requests|\bquota\b|billing|insufficient (?:balance|credits?|funds)|api key|unauthori[sz]ed|"
    r"not enough credits|overloaded|timed? ?out|payment required|at capacity",
    re.IGNORECASE,
)
_OUTPUT = re.compile(
    r"(?:generated|output|resulting) (?:images?|content|pictures?|results?|data)|images? generated|"
    r"output (?:was|were|is)|nsfw (?:content|images?) (?:was |were |is |are )?detected|nsfw content",
    re.IGNORECASE,
)
_INPUT = re.compile(
    r"your (?:prompt|request|input)|the prompt|input (?:text|data|prompt)|filtered words", re.IGNORECASE
)
_REFUSED = re.compile(
    r"safety system|content (?:polic(?:y|ies)|filters?|moderation|management policy)|safety (?:filters?|polic(?:y|ies)|"
    r"guidelines?)|(?:usage|use|our|ai) (?:polic(?:y|ies)|guidelines)|responsible ai|\bnsfw\b|flagged (?:as|by|for)|"
    r"moderation (?:system|filters?)|(?:filtered|blocked|banned|prohibited|forbidden) words?|sensitive (?:content|"
    r"information|words?)|inappropriate content|may violate|unsafe content|violat\w+ .{0,40}(?:polic|guideline|terms)",
    re.IGNORECASE,
)
_SUPPORT = re.compile(r"(?:support|error) codes?:?\s*([\d,\s]+)", re.IGNORECASE)
_VIOLATIONS = re.compile(r"safety_violations=\[([^\]]*)\]")

# Google's support codes: category and where it was stopped.
SUPPORT_CODES: dict[str, tuple[str, Stage]] = {
    "58061214": ("child", "input"), "17301594": ("child", "output"),
    "29310472": ("celebrity", "input"), "15236754": ("celebrity", "output"),
    "62263041": ("dangerous", "input"),
    "57734940": ("hate", "input"), "22137204": ("hate", "output"),
    "42876398": ("other", "input"), "29578790": ("other", "output"), "74803281": ("other", "output"),
    "39322892": ("people", "output"), "92201652": ("personal_information", "input"),
    "89371032": ("prohibited", "input"), "49114662": ("prohibited", "output"), "72817394": ("prohibited", "output"),
    "90789179": ("sexual", "input"), "63429089": ("sexual", "output"), "43188360": ("sexual", "output"),
    "78610348": ("toxic", "input"), "61493863": ("violence", "input"), "56562880": ("violence", "output"),
    "32635315": ("vulgar", "input"), "64151117": ("celebrity_or_child", "output"),
    "35561574": ("third_party", "input"), "35561575": ("third_party", "output"),
}  # fmt: skip


def is_account_matter(code: str, message: str) -> bool:
    """Whether an error is about the account, the quota or the traffic, even where it speaks of policies.

    A blocked account outweighs a moderation code (proxies put one on it); passing words about traffic do not.
    """
    if code.casefold() in ACCOUNT_CODES or _ACCOUNT.search(message):
        return True
    return ruling_of_code(code) is None and bool(_TRAFFIC.search(message))


def ruling_of_code(code: str) -> Ruling | None:
    """What a vendor's error code says; None for a code that is no refusal. Suffixes after a dot refine a code."""
    folded = code.casefold().strip()
    return ERROR_CODES.get(folded) or ERROR_CODES.get(folded.partition(".")[0])


def ruling_of_message(message: str) -> Ruling | None:
    """What an error's wording says where no code does; None unless it speaks of a policy, a filter or moderation."""
    return stage_of_message(message) if _REFUSED.search(message) or support_code(message)[0] else None


def stage_of_message(message: str) -> Ruling:
    """Whether a refusal's wording is about the request or about the picture."""
    code, _, stage = support_code(message)
    if code:
        return OUTPUT if stage == "output" else INPUT if stage == "input" else UNKNOWN
    if "input or output" in message.casefold():
        return UNKNOWN
    if _OUTPUT.search(message):
        return OUTPUT
    return INPUT if _INPUT.search(message) else UNKNOWN


def support_code(message: str) -> tuple[str, str, Stage]:
    """Google's support code in a message, its category and stage; empty where there is none that is known."""
    found = _SUPPORT.search(message)
    for code in re.findall(r"\d{6,}", found.group(1)) if found else ():
        if code in SUPPORT_CODES:
            return code, *SUPPORT_CODES[code]
    return "", "", ""


def named_violations(message: str) -> str:
    """Categories that OpenAI's newer messages list, comma-separated; '' if none."""
    found = _VIOLATIONS.search(message)
    return ",".join(part.strip(" '\"") for part in found.group(1).split(",")) if found else ""
