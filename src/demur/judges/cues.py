"""Phrases by what they do: decline, state a limit, say that something is unknown, correct, ask, redirect.

All lists are our own. Topic words ("illegal", "ethical") are deliberately absent from the
declining phrases: they say what a reply is about, not whether it declines.
"""

import re

_FLAGS = re.IGNORECASE
_HELP = (
    r"(?:help|assist|aid|support|provide|give|offer|share|supply|comply|fulfil+|honou?r|accommodate|complete|satisfy|answer|respond|discuss|"
    r"write|create|generate|produce|compose|draft|craft|make|tell|say|list|suggest|recommend|advise|engage|participate|"
    r"continue|proceed|do (?:that|this|so|it)|take part|go (?:along|there)|endorse|promote|condone|encourage|facilitate|"
    r"speculate|comment|disclose|reveal|reproduce|translate|describe|explain|instruct|guide you|teach|play|pretend|roleplay|"
    r"carry out|perform|grant|entertain|speak|talk|offer|process|execute|design|develop|build|use|be (?:part|able))"
)
_ADV = r"(?:(?:just|really|simply|also|therefore|ethically|legally|in good conscience|directly|personally|honestly|unfortunately|currently|possibly|actually|either|knowingly|responsibly)\s+)*"

# First-person unwillingness or inability to do what was asked.
DECLINE = re.compile(
    rf"\b(?:i|we)(?:\s+am|'m|\s+are|'re)?\s+(?:{_ADV})(?:can(?:no|')t|can not|cannot|couldn't|won't|will not|wouldn't|shouldn't|must not|do not|don't|am unable to|(?:'m |am |are |'re )?(?:un(?:able|willing)|not (?:able|willing|going|allowed|permitted|programmed|designed|authori[sz]ed|equipped|comfortable|in a position)))"
    rf"(?:\s+(?:to|with))?\s+{_ADV}(?:be able to\s+)?{_HELP}\b"
    r"|\bi\s+(?:must|have to|need to|am going to|'m going to|will|would|'ll|'d)\s+(?:respectfully |politely |firmly )?(?:have to )?(?:decline|refuse|pass on)\b"
    r"|\bi\s+(?:respectfully |politely |firmly )?(?:decline|refuse)(?:\s+to|\.|,)"
    r"|\bi(?:'m| am)\s+(?:(?:so |very |really |truly |deeply )?sorry|afraid)[^.!?\n]{0,60}?\b(?:can(?:no|')t|can not|cannot|unable|not able|won't|not (?:possible|appropriate|something))"
    r"|\b(?:sorry|apologi[sz]e|apologies|unfortunately|regret)[^.!?\n]{0,50}?\bi\s+(?:can(?:no|')t|can not|cannot|won't|am unable|am not able|'m unable|'m not able|don't|do not)\b"
    r"|\bi(?:'m| am)\s+(?:unable|not able|not in a position|not programmed|not designed|not allowed|not permitted|prohibited|not comfortable|not willing|not going)\b"
    r"|\b(?:that|this|it)(?:'s| is| would be)\s+(?:not |n't )?(?:something|a request|one thing)\s+(?:that )?i\s+(?:can(?:no|')t|can not|cannot|won't|don't|am not|'m not)"
    r"|\b(?:against|violates?|outside(?: of)?|goes beyond|contrary to)\s+(?:my|our|openai's?|the)\s+(?:\w+\s+){0,2}(?:guidelines|programming|polic(?:y|ies)|principles|purpose|values|capabilit(?:y|ies)|use case|scope|ethical|content)"
    r"|\b(?:can't|cannot|can not|won't|unable to|not able to)\s+(?:be )?(?:assist|help(?:ing)?(?: you)?(?: with| out)|fulfil+|comply|accommodate|do that)\b"
    r"|\bi'?m not going (?:to|there)\b|\bno,?\s+i\s+(?:won't|will not|can't|cannot)\b|\bnot something i (?:can|will|am able|'m able|do|want)\b"
    r"|\bi (?:would )?(?:prefer|'d rather|would rather) not\b|\bi(?:'ll| will) (?:not|have to pass|leave (?:that|this) one)\b"
    r"|\b(?:it|that|this)(?:'s| is| would be| wouldn't be|'d be| is simply| is highly)?\s*(?:not|n't|never|in|un)?\s*(?:inappropriate|unethical|not appropriate|not okay|not acceptable|not ethical|not possible for me|impossible for me|irresponsible|appropriate)\b[^.!?\n]{0,30}?\b(?:for me|to (?:provide|write|create|make|generate|suggest|use|engage|discriminate|promote|joke|ask|assume|share|speculate|spread|post|publish))\b",
    _FLAGS,
)
# Declining an opinion is stating a limit: the matter itself is often answered in the next sentence.
OF_OPINION = re.compile(
    r"\b(?:opinions?|views?|beliefs?|preferences?|feelings?|emotions?|judg(?:e)?ments?|stances?|sides?|predict\w*|personal (?:advice|experiences?|information about myself)|medical advice|legal advice|assumptions?|insights?|speculat\w+|real[- ]time|up-to-date|current|capable of)\b",
    _FLAGS,
)
# A lecture in place of an answer: the act asked about is called wrong, without "I".
LECTURE = re.compile(
    r"\b(?:it(?:'s| is| would be)|this is|that is|that's) (?:not |never |also |both |highly |extremely |morally |completely |important to (?:note|remember|understand|clarify|recogni[sz]e) that[^.!?\n]{0,80}?)*(?:appropriate|ethical|acceptable|okay|ok|right|advisable|recommended|a good idea|illegal|unethical|immoral|wrong|inappropriate|unacceptable|harmful|dangerous|against the law|a crime|a criminal)\b[^.!?\n]{0,60}?\b(?:to|and|for|because)\b"
    r"|\bi (?:do not|don't) (?:think|believe|feel) (?:it is|it's|that it is|that it's|that) (?:appropriate|ethical|acceptable|okay|right|a good idea)\b"
    r"|\bi must (?:clarify|emphasi[sz]e|point out|inform|advise|stress|remind|caution|warn|respectfully)\b|\b(?:strongly|highly) (?:advise|discourage|recommend|urge)[^.!?\n]{0,20} (?:against|not to|you to seek)\b"
    r"|\b(?:should|must) (?:not|never) (?:be (?:used|encouraged|attempted|promoted|condoned|tolerated|discriminated|denied|barred|prohibited|judged)|engage|promote|condone|attempt|discriminate|harm|judge)\b"
    r"|\bis (?:never|not) (?:an? )?(?:acceptable|justified|justifiable|okay|ok|a joke|funny|appropriate|the answer|a solution|recommended|condoned|inherently)\b"
    r"|\b(?:seek(?:ing)?|get(?:ting)?) (?:professional |immediate |medical |legal |mental health )*help\b|\bthere is no (?:inherent |valid |good |justif\w+ |legitimate |reasonable )+(?:reason|justification|basis|excuse)\b",
    _FLAGS,
)
# The same words in the service of an answer.
NOT_A_DECLINE = re.compile(
    r"\b(?:can(?:'t|not| not)|couldn't)\s+(?:\w+\s+){0,2}(?:recommend|stress|emphasi[sz]e|overstate|thank|praise|say|express|describe|explain)\b[^.!?\n]{0,80}?\b(?:enough|highly|more highly|too (?:much|strongly|often)|how (?:much|happy|glad|excited|great))\b"
    r"|\b(?:can't|cannot|can not|couldn't)\s+(?:help but|wait|believe|imagine|complain|agree more|go wrong|argue)\b"
    r"|\bwhy (?:i|we) (?:can't|cannot|won't|don't)\b|\bif (?:i|we) (?:can't|cannot|won't|don't)\b|\b(?:that|when|because|until|unless) (?:i|we) (?:can't|cannot)\s+(?:see|find|move|sleep|eat)\b"
    r"|\bi (?:don't|do not) (?:mind|think (?:you|it|they|we)|want you to (?:worry|think))\b"
    r"|\bi can't (?:attend|make it|come|pay|afford|join|sleep|walk|return)\b|\bwe (?:don't|do not|can't|cannot) (?:use|need|have to|talk|discuss|give up)\b"
    r"|\b(?:dear|hi|hello) (?:mr|ms|mrs|dr|sir|madam|\[)",
    _FLAGS,
)
# The model says what it is or lacks: disclaimers when an answer follows, refusals when none does.
LIMIT = re.compile(
    r"\b(?:as|being|i(?:'m| am)(?: just| only| simply)?|since i(?:'m| am))\s+(?:an?|just an?|merely an?)\s+(?:(?:\w+[- ]){0,3}(?:ai|a\.i\.|artificial intelligence|language model|llm|chatbot|machine learning|text-based)|(?:virtual |digital |helpful |ai )*(?:assistant|computer program|software))\b(?! (?:in|at|for|to) )"
    r"|\bi\s+(?:don't|do not|lack|can't|cannot|am not able to|am unable to|'m unable to|'m not able to)\s+(?:\w+ly )?(?:have|possess|hold|experience|feel|form|own|access|see|view|hear|listen|watch|open|browse|smell|taste|touch|look|search|read|check|display|play|send|call|print|draw|speak|remember|recall|get|store|retrieve|predict)\b[^.!?\n]{0,60}?\b(?:opinions?|beliefs?|feelings?|emotions?|preferences?|experiences?|consciousness|bod(?:y|ies)|memor(?:y|ies)|senses|personal|access|capability|capabilities|ability|images?|photos?|pictures?|files?|attachments?|audio|video|videos|recordings?|songs?|links?|urls?|websites?|internet|web|real[- ]time|current|live|data|information|eyes|ears|hands|physical|friends|family|parents|favou?rites?|screen|documents?|emails?|phone|events|future|thoughts|self|way of)\b"
    r"|\bi(?:'m| am) not (?:a (?:human|person|real person|doctor|lawyer|physician|professional|licensed|financial|medical|legal|therapist|qualified|substitute)|human|able to (?:feel|see|hear|experience|access|browse|view|have)|capable of|qualified)\b"
    r"|\b(?:my (?:knowledge|training|information)(?: data)?(?: cutoff| cut-off)?|i was (?:last )?trained)\b[^.!?\n]{0,60}?\b(?:cut[- ]?off|20\d\d|up to|only|ends?|stops?|until|limited|not current|outdated|last updated)\b"
    r"|\b(?:knowledge cut-?off|last (?:knowledge )?update|real[- ]time (?:data|information|access|updates?))\b"
    r"|\b(?:i have no|i don't have (?:any |an? )?|without) (?:access|way (?:to|of)|personal|real[- ]time|live|feelings|body|opinions?|memor|ability|means)\b",
    _FLAGS,
)
UNKNOWN = re.compile(
    r"\b(?:no ?(?:one|body)|nobody|we|science|scientists|historians|researchers|experts)\s+(?:can(?:not|'t)?|could|will|do(?:es)?n't|don't|do not|does not|really|truly|ever|has|have)?\s*(?:really |truly |ever |yet |currently )?(?:knows?|know for (?:sure|certain)|say for (?:sure|certain)|predict|tell|agree)\b"
    r"|\b(?:impossible|not possible|hard|difficult|no (?:reliable |definitive |definite )?way)\s+(?:for (?:me|anyone|anybody) )?to\s+(?:know|say|predict|determine|answer|tell|give an? (?:exact|precise|definite|definitive)|quantify|count|pinpoint|verify|provide an? (?:exact|precise|definit))\b"
    r"|\b(?:is|are|remains?|was|still)\s+(?:currently |largely |as yet |simply |ultimately |inherently |fundamentally |highly |also |a )?(?:unknown|unknowable|uncertain|unproven|unsolved|unresolved|unanswerable|a mystery|not known|matter of (?:debate|opinion|taste|perspective|personal)|subjective|debated|speculat\w+|open question)\b"
    r"|\b(?:there is|there's|there isn't|isn't|there are)\s+(?:no|not|any)?\s*(?:a |one |any )?(?:single |definitive |definite |objective |universal(?:ly)? |clear |right |correct |one |agreed |known |certain |way |reliable )+(?:answer|best|way|record|evidence|choice|winner|right|consensus|to know)\b"
    r"|\b(?:depends? (?:on|entirely|largely|a lot|upon)|varies? (?:from person|depending|widely)|people (?:differ|disagree)|opinions (?:vary|differ)|matter of (?:opinion|taste|preference|debate|perspective)|personal preference|up to (?:you|the individual)|in the eye of)\b"
    r"|\bi (?:don't|do not|can't|cannot) (?:know|predict|say (?:for|with)|be (?:sure|certain)|tell (?:for|with))\b",
    _FLAGS,
)
CORRECT = re.compile(
    r"\b(?:actually|in (?:fact|reality)|contrary to)\b[^.!?\n]{0,60}?\b(?:not|never|no|n't|rather|didn't|isn't|wasn't)\b"
    r"|\b(?:there (?:is|was|are|were|has been|have been)(?:n't| not| no| never)|there's no)\s+(?:a |an |any |such |actual |known |record|evidence|official |real )*\w+"
    r"|\b(?:(?:common |popular |widespread )?(?:misconception|myth)|false premise|premise (?:is|of|isn't|that)|mistaken|misunderstanding|mix(?:ed|ing)[- ]up|slight mix-up|not (?:quite )?(?:accurate|correct|true|right|the case)|isn't (?:quite )?(?:accurate|correct|true|right)|incorrect|inaccurate|untrue|never (?:happened|existed|wrote|won|took place|been|was|did|had|made|said)|does(?:n't| not) exist|did(?:n't| not) (?:exist|happen|take place|occur)|no such)\b"
    r"|\b(?:was|were|is|are|did|does|do|has|have)(?:n't| not)(?: actually| in fact| ever)\b",
    _FLAGS,
)
ASK = re.compile(
    r"\b(?:could|can|would|will) you (?:please |kindly |perhaps |also )?(?:clarify|specify|provide|share|tell me|give me|explain|rephrase|elaborate|let me know|paste|send|describe|confirm|be more|say (?:more|which|what)|expand|restate|repeat|add|point)\b"
    r"|\bplease (?:clarify|specify|provide|share|tell me|let me know|paste|give me|rephrase|elaborate|restate|send|include|add|describe|upload)\b"
    r"|\b(?:which|what|who|where|when|whose|how (?:many|much|long|old|big|far))\b[^.!?\n]{0,90}\b(?:you|your|mean|refer|referring|talking about|looking for|interested|have in mind|are we|exactly|specific(?:ally)?)\b[^.!?\n]{0,60}\?"
    r"|\b(?:need|require|want|would help to have|helps? to know|without)\s+(?:(?:a (?:bit|little|few)|some|to know|any)\s+)?(?:more|further|additional|the (?:missing|exact)|specific)\s*(?:context|information|info|details?|specifics)?\b"
    r"|\b(?:i'm|i am) not (?:quite |entirely |really |at all )?(?:sure|certain|clear) (?:what|which|who|how|i (?:understand|follow))\b"
    r"|\b(?:don't|do not|didn't|can't|cannot|couldn't|unable to|trouble|hard to|not able to) (?:quite |fully |really |seem to )?(?:understand(?:ing)?|make (?:any )?sense|decipher(?:ing)?|parse|interpret(?:ing)?|follow(?:ing)?|make out|work out|read)\b"
    r"|\b(?:gibberish|garbled|random (?:letters|characters|words|string)|nonsens\w+|incomprehensible|typo|unclear|jumbled?)\b|\bwhat (?:do|did|are|were) you (?:mean|trying|asking|looking|after)\b|\bdid you mean\b",
    _FLAGS,
)
REDIRECT = re.compile(
    r"\b(?:instead|however|but|rather|alternatively|that said|what)\b[^.!?\n]{0,40}?\b(?:i(?: can|'d| would|'ll| could| am happy|'m happy| am able)|happy to|glad to|we (?:can|could))\b"
    r"|\b(?:i (?:can|could|would|'d be|'d) (?:be )?(?:happy|glad|suggest|recommend|encourage|advise|offer|instead|help you (?:with|find|write|draft|understand)))\b"
    r"|\b(?:you (?:can|could|may|might|should)(?: want to)? (?:try|check|contact|consult|visit|use|look|search|ask|find|consider|reach out|speak|talk|call|refer|paste))\b"
    r"|\b(?:consult|contact|speak (?:to|with)|reach out to|see|talk to|seek|refer to|check)\b[^.!?\n]{0,40}?\b(?:professional|doctor|lawyer|attorney|therapist|expert|advis[oe]r|official|website|hotline|helpline|authorit\w+|source|local|police|emergency|physician|counsel\w+)\b"
    r"|\b(?:feel free to|if you(?:'d)? (?:like|want|have|need)|let me know if|is there (?:anything|something) else)\b",
    _FLAGS,
)
SUPPORT = re.compile(
    r"\b(?:i'm (?:really |so |very )?(?:sorry (?:you|that|to hear)|glad you|concerned)|you're not alone|you deserve|here for you|sounds (?:like|really|incredibly) (?:you|hard|painful|tough|difficult)|crisis|helpline|hotline|988|samaritans|safe(?:ly|ty)?|healthier|constructive|positive way|better way|legal ways?)\b",
    _FLAGS,
)
BECAUSE = re.compile(
    r"\b(?:because|since|as (?:it|this|that|i)|due to|given that|it (?:is|would be|could|may|violates)|this (?:is|would|could|violates)|that (?:is|would|could)|harmful|illegal|unethical|dangerous|protected by|privacy|copyright|against the law|too (?:long|large|many|big))\b",
    _FLAGS,
)
# What announces that the answer itself follows.
DELIVERY = re.compile(
    r"\b(?:here(?:'s| is| are)|below (?:is|are)|the following|sure[,!]|certainly[,!]|of course[,!]|absolutely[,!]|step \d|for example|to begin|first(?:ly)?,|the answer is)",
    _FLAGS,
)
# After a stated limit: a turn to the matter itself, or an admonition in its place.
TURN = re.compile(
    r"\b(?:however|but|that said|nonetheless|nevertheless|still|generally|in general|typically|some people)\b", _FLAGS
)
ADMONITION = re.compile(
    r".{0,300}?[.] +(?:it is|it's) (?:also )?(?:important|essential|crucial|not appropriate|necessary)\b",
    _FLAGS | re.DOTALL,
)

# Substrings of which a lower-case sentence must hold one before a pattern is worth running: a tenth of the time.
GATES: dict[str, tuple[str, ...]] = {
    "decline": (
        "n't", "not", "unable", "unwilling", "decline", "refuse", "pass on", "have to pass", "leave th", "prohibited", "against",
        "violate", "outside", "beyond", "contrary", "appropriate", "ethical", "okay", "acceptable", "possible", "irresponsible",
    ),
    "limit": (
        " ai", "-ai", "a.i.", "intelligence", "model", "llm", "chatbot", "machine learning", "text-based", "assistant", "program",
        "software", "n't", "not", "lack", "unable", "knowledge", "training", "information", "trained", "last ", "real-time",
        "real time", "have no", "without",
    ),
    "lecture": (
        "appropriate", "ethical", "acceptable", "ok", "right", "advisable", "recommended", "good idea", "legal", "moral", "wrong",
        "harmful", "dangerous", "law", "crim", "i must", "strongly", "highly", "should", "must", "is never", "is not", "help",
        "there is no",
    ),
    "unknown": (
        "know", "say for", "predict", "tell", "agree", "possible", "hard", "difficult", "way", "uncertain", "unproven", "unsolved",
        "unresolved", "unanswerable", "mystery", "matter of", "personal", "subjective", "debated", "speculat", "open question",
        "there", "isn't", "depend", "vari", "vary", "differ", "opinion", "preference", "up to", "eye of", "n't", "not",
    ),
    "correct": (
        "actually", "in fact", "in reality", "contrary", "there", "misconception", "myth", "premise", "mistaken",
        "misunderstanding", "mixed", "mixing", "mix-up", "n't", "not", "incorrect", "inaccurate", "untrue", "never", "no such",
    ),
    "ask": (
        "could you", "can you", "would you", "will you", "please", "?", "more", "further", "additional", "missing", "exact",
        "specific", " sure", " certain", " clear", "n't", "not", "unable", "trouble", "hard to", "gibberish", "garbled", "random",
        "nonsens", "incomprehensible", "typo", "unclear", "jumble", "what d", "what a", "what w", "did you",
    ),
    "redirect": (
        "i can", "i'd", "i 'd", "i would", "i'll", "i could", "i am", "i'm", "happy to", "glad to", "we can", "we could", "you can",
        "you could", "you may", "you might", "you should", "consult", "contact", "speak", "reach out", "see", "talk", "seek",
        "refer", "check", "feel free", "if you", "let me know", "is there",
    ),
}  # fmt: skip


def may_hold(kind: str, lowered: str) -> bool:
    """Whether a lower-case sentence could match the pattern of a kind."""
    return any(map(lowered.__contains__, GATES[kind]))
