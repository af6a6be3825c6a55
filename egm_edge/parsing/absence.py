"""Whether words say that the thing asked for is not there: one pattern a language, the languages that Qwen answers in.

Knows nothing of boxes. A reply about the picture itself ("I cannot view images") is a refusal and says nothing of the thing.
"""

from __future__ import annotations

import re
from functools import cache

from egm_edge.parsing.choice import normal

MAX_WORDS_CHARS = 4096
NOTHING = frozenset(
    (
        "[]", "{}", "()", "[[]]", "[none]", "[null]", "null",
        "none", "nil", "nothing", "n/a", "na", "no", "absent", "empty", "-1", "false",
        "not found", "no match", "no matches", "no such object", "not present", "not visible", "no object", "no box", "no bbox",
        "无", "無", "没有", "沒有", "不存在", "なし", "없음", "нет",
    )
)  # fmt: skip

# "not fully visible" speaks of a thing that is there.
_STILL_THERE = (
    r"(?!\s+(?:only|just|fully|entirely|completely|clearly|wholly|very|quite|easily|immediately|directly|so"
    r"|necessarily)\b)"
)
_NOT = r"(?:(?:is|are|was|were|does|do|did|has|have|ca|could|would)n['’]?t|not|cannot|never)" + _STILL_THERE
_SEEN = (
    r"(?:find|found|sees?|seen|visible|present|exists?|detect(?:ed)?|locate|located|identify|identified|spot|spotted"
    r"|appears?|contains?|shows?|shown|depicts?|depicted|includes?|features?|there)"
)
_PICTURE = r"(?:image|picture|photo(?:graph)?|scene|frame|view|shot)"
_UP_TO_3 = r"(?:\s+[\w'’-]+){0,3}?"
_PATTERNS = {
    "en": rf"\b{_NOT}{_UP_TO_3}\s+{_SEEN}\b|\b{_NOT}\s+(?:in|part of|within)\s+(?:the|this|your)\s+{_PICTURE}"
    r"|\bthere(?:['’]s|\s+(?:is|are|was|were|appears to be|seems to be))\s+(?:no|not an?y?|nothing|none)\b"
    r"(?!\s+(?:other|others|more|another|doubt|need|way|reason|problem|question|difference|mistake|ambiguity)\b)"
    r"|\bthere\s+(?:is|are|was|were)n['’]?t\s+(?:an?|any)\b|\bno\s+(?:such|match(?:es|ing)?|bounding box(?:es)?"
    r"|detections?)\b"
    r"|\bno(?:ne|thing)?(?:\s+[\w'’-]+){0,8}?\s+(?:(?:is|are|was|were|can be|could be)\s+)?"
    rf"(?:found|visible|present|detected|seen|located|match(?:es|ing)?|in\s+(?:the|this)\s+{_PICTURE})\b"
    rf"|\bunable to\s+(?:find|locate|detect|identify|spot|see)\b|\bfail(?:ed)? to\s+(?:find|locate|detect)\b"
    rf"|\b(?:is|are)\s+(?:absent|missing)\s+(?:from|in)\b|\babsent\b|\bnon-?existent\b|\bdoes not apply\b|\bnot applicable\b"
    r"|\b(?:doesn['’]?t|does not|don['’]?t|do not)\s+have\s+any\b|\bthere\s+do(?:es)?(?:n['’]?t| not)\s+(?:appear|seem)\b"
    r"|\b(?:see|sees|contains?|shows?|includes?|found|there are|there is)\s+(?:no|zero)\b(?!\s+(?:other|need|doubt|more|way)\b)"
    r"|^\s*no(?:\s+\w+){1,4}[.!]?\s*$|\bno results?\b"
    r"|\b(?:0|zero) (?:objects?|results?|match(?:es)?|boxes|detections?|instances?)\b|\bnowhere (?:to be (?:seen|found)|in)\b"
    r"|\bneither (?:is|are|was|were)\b"
    r"|\b(?:none|neither) of (?:them|these|those|the\s+\w+(?:\s+\w+)?)\s+(?:is|are|was|were|has|have|match(?:es)?|fits?)\b",
    "zh": r"(?:^|[\s,，。.!！?？;；:：中里內内上裡面我並并也确實实])(?:没|沒)(?:有|看到|找到|发现|發現|见|見|检测"
    r"|檢測)"
    r"|(?:未|没|沒|无法|無法|不能|未能|没能)(?:能|有)?(?:在[^,，。]{0,12})?(?:找到|发现|發現|检测|檢測|看到|见到"
    r"|出现|出現|识别|識別|定位|观察到)"
    r"|不存在|找不到|看不到|看不见|并无|並無|[图圖画畫]\w{0,4}[中里内]?[无無](?!法)|(?:无|無)(?:此|该|該|目标"
    r"|目標|匹配|符合|对应|相关)|不在(?:图|圖|画面|照片)"
    r"|(?:不|未|没有)(?:包含|含有)|没有(?:符合|匹配|任何|该|這|这|目标|对应|相关)",
    "ja": r"(?:見つか|見当た|見つけ|存在し|写って|映って|検出され|含まれて|確認でき|見え|見られ|表示されて)(?:ら"
    r"|り|い|ること(?:が)?でき)?(?:ませ|な[いか])"
    r"|(?:あり|い|でき)ません(?!か)|該当[^。]{0,12}(?:なし|無し|ない|ありません)|ございません",
    "ko": r"없(?:습니다|어요|음|다|네요|는\s*것)|(?:찾을|볼|확인할|감지할)\s*수\s*없|보이지\s*않|존재하지\s*않"
    r"|(?:발견|감지|검출|포함)되지\s*않|찾지\s*못",
    "fr": r"\bil\s+n['’]y\s+a(?:\s+(?:pas|aucun|rien))|\baucune?\b|\bintrouvables?\b|\bn['’](?:est|apparaît"
    r"|existe|ai|a)\s+(?:pas|aucun)"
    r"|\bpas\s+(?:été\s+)?(?:trouvée?|visible|présente?|détectée?)|\bne\s+(?:vois|trouve|figure|contient|montre"
    r"|peux)\s+(?:pas|aucun)|\babsente?\b",
    "de": r"\bkein\w{0,2}\b[^.!?]{0,80}?(?:gefunden|vorhanden|sichtbar|sehen|erkenn\w+|entdeckt|\b(?:im"
    r"|auf dem)\s+(?:Bild|Foto))"
    r"|\bnicht\b[^.!?]{0,40}?(?:gefunden|vorhanden|sichtbar|zu sehen|zu finden|erkennbar|finden|erkennen|sehen"
    r"|im Bild|auf dem Bild)"
    r"|\b(?:sehe|erkenne|finde|sieht man|zeigt|enthält)\b[^.!?]{0,40}?\bkein\w{0,2}\b"
    r"|\bexistiert nicht\b|\bgibt es (?:nicht|kein\w*)\b|\bes gibt kein\w*\b",
    "es": r"\bno\s+(?:se\s+|he\s+|hay\s+|puedo\s+|está\s+|es\s+|fue\s+|existe\s+)*(?:hay|exist\w+|encuentr\w+"
    r"|encontr\w+|apare\w+|ve[on]?|visibles?|presentes?"
    r"|detect\w+|observ\w+|aprecia\w*|muestra\w*|contiene)\b|\bning(?:ún|una|uno)\b",
    "pt": r"\bnão\s+(?:se\s+|foi\s+|é\s+|está\s+|consigo\s+|há\s+)*(?:há|exist\w+|encontr\w+|aparec\w+|vej\w+|vê"
    r"|visíve\w+|presente\w*|detect\w+|consta|contém|mostra)"
    r"|\bnão há\b|\bnenhuma?\b",
    "it": r"\bnon\s+(?:si\s+|è\s+|ho\s+|riesco\s+a\s+|sono\s+)*(?:c['’]è|ci sono|trov\w+|esist\w+|visibil\w+"
    r"|presente\w*|ved\w+|rilevat\w+|appar\w+|contiene|mostra)"
    r"|\bnessun[oa]?\b",
    "ru": r"\bнет\b|\bне\s+(?:\w+\s+)?(?:найден\w*|обнаружен\w*|вид\w+|вижу|существу\w+|присутству\w+|содержит"
    r"|изображ\w+|удалось)|\bотсутству\w+",
    "uk": r"\bнемає\b|\bне\s+(?:знайдено|видно|виявлено|існує)|\bвідсутн\w+",
    "ar": r"لا\s*(?:يوجد|توجد|أرى|يظهر|تظهر|يمكن|يمكنني|أستطيع)|غير\s*(?:موجود|مرئي|ظاهر)|لم\s*(?:يتم|أجد|أعثر"
    r"|يُعثر|يعثر)|ليس(?:ت)?\s",
    "fa": r"وجود\s*ندارد|یافت\s*نشد|پیدا\s*نشد|دیده\s*نمی",
    "he": r"\bאין\b|לא\s+(?:נמצא|קיים|נראה|מופיע)",
    "vi": r"\bkhông\s+(?:có|tìm|thấy|tồn tại|xuất hiện|nhìn|hiện diện|phát hiện)",
    "th": r"ไม่(?:พบ|มี|เห็น|ปรากฏ|สามารถ)",
    "id": r"\btidak\s+(?:ada|ditemukan|terlihat|terdapat|tampak|dapat)|\btiada\b",
    "tr": r"\b(?:bulunamadı|bulunmuyor|bulunmamaktadır|yok|yoktur|görünmüyor|görülmüyor|göremiyorum)\b|\bmevcut değil",
    "hi": r"नहीं\s*(?:है|हैं|मिल|दिख|पाय|मौजूद)|(?:मौजूद|उपलब्ध)\s*नहीं",
    "pl": r"\bnie\s+(?:ma|znaleziono|widać|znajduje|występuje|znalazłem|widzę)|\bbrak\b",
    "nl": r"\b(?:er (?:is|zijn)|ik zie)\b[^.!?]{0,40}?\bgeen\b"
    r"|\bgeen\b[^.!?]{0,80}?(?:gevonden|zichtbaar|aanwezig|te zien|op de|in de)"
    r"|\bniet\b[^.!?]{0,40}?(?:gevonden|zichtbaar|aanwezig|te zien|te vinden)",
    "sv": r"\b(?:finns|hittades|syns|ser)\b[^.!?]{0,40}?\b(?:inte|ingen|inget|inga)\b|\bing(?:en|et|a)\b[^.!?]{0,60}?(?:hittades"
    r"|syns|finns)",
    "cs": r"\b(?:nebyl\w*\s+nalezen\w*|nenalezen\w*|nevidím|není\b[^.!?]{0,40}?(?:vidět|viditeln\w+|na obrázku)|neexistuje)",
    "el": r"\bδεν\s+(?:υπάρχ\w+|βρέθηκ\w+|φαίνεται|βλέπω)",
}  # fmt: skip
_REFUSAL = re.compile(
    r"\b(?:cannot|can['’]?t|unable to|not able to|don['’]?t have the ability to)\s+(?:\w+\s+){0,2}?"
    rf"(?:see|view|access|process|analy[sz]e|open|load|display)\s+(?:\w+\s+){{0,2}}?{_PICTURE}s?\b"
    rf"|\bno\s+{_PICTURE}\b(?:\s+\w+){{0,4}}?\s+(?:provided|attached|uploaded|given|received|supplied)"
    rf"|\b(?:don['’]?t|do not|didn['’]?t)\s+(?:see|receive|have)\s+(?:an?|any|the)\s+{_PICTURE}"
    r"|没有(?:提供|上传|收到)[^。]{0,6}图|无法(?:查看|访问|打开)[^。]{0,6}图|请(?:提供|上传)",
    re.IGNORECASE,
)
_SAYS_WHERE = re.compile(
    rf"\b{_PICTURE}\b|[图圖画畫]|画像|写真|이미지|사진|화면|\bimagen\b|\bimage[mn]?\b|\bimmagine\b|\bfoto\b|\bBild\b|изображени|фото|الصورة"
    r"|\bhình\b|\bgambar\b|görüntü|ภาพ|\bobraz\w*",
    re.IGNORECASE,
)
_PARTLY_OR_OTHER = re.compile(
    r"\b(?:full|entire|complet|whol|clear|other|vollständig|ganz|komplett|deutlich|ander|entièr|autre|otr|outr|altr|друг|полност)"
    r"|完全|全部|其他|其它|清楚|清晰|別の|他の|다른|완전",
    re.IGNORECASE,
)
_OF_A_PART = re.compile(r"\b(?:visible|seen|shown|whose|faces?|heads?|body|parts?|legs?|edges?)\b", re.IGNORECASE)
_BUT = re.compile(
    r"\b(?:but|however|though|although|instead|only|aber|mais|pero|mas|ma|но)\b|但|不过|只有|けど|が、", re.IGNORECASE
)
_IF = re.compile(
    r"\b(?:if|when|unless|otherwise)\b[^.\n]{0,300}|(?:如果|若|假如)[^。\n]{0,200}", re.IGNORECASE
)  # a task, said again
_ANOTHER_CASE = re.compile("otherwise|unless", re.IGNORECASE)
_TAGS = re.compile(r"</?answer>|</s>|<\|[a-z_]{1,32}\|>")
_PARTS = re.compile(r"[,，;；。!！?？\n]|\.(?!\w)|\b(?:but|however|though|although)\b|但|不过", re.IGNORECASE)
_UNSPACED = re.compile(r"[぀-ヿ㐀-鿿가-힯]")
_OF_IT_ITSELF = re.compile(  # "could not find it", "there is no it", "it is not visible": not its handle, nor what it lacks
    rf"^(?!.*\b(?:first|initially)\b).*\b(?:{_SEEN}|no|any|not)\s+it"
    rf"(?:\s+(?:here|anywhere|at all|(?:in|within)\s+{_PICTURE}|{_SEEN}|(?:is|was)\s+{_SEEN}))*$"
    rf"|^(?:\w+\s+){{0,3}}?(?<!of\s)it\s+(?:is|are|was|were|does|do|did|can|could)\s?(?:n['’]t|not)(?:\s+(?:be|appear|seem to be))?"
    rf"\s+(?:(?:{_SEEN}|here|anywhere|at all|(?:in|within)\s+{_PICTURE})\s*)+$",
    re.IGNORECASE,
)
_END_MARKS = re.compile(r"<\|[a-z_]{1,32}\|>|</?(?:s|answer)>|```(?:json)?|[`\"'*]")


@cache
def _absent() -> re.Pattern[str]:
    """Compiled when first needed: it takes longer than to import all of parsing."""
    return re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS.values()), re.IGNORECASE)


def means_nothing(words: str) -> bool:
    """Whether the words are, by themselves, a way to write an empty answer: "[]", "None.", "not found".

    Example:
        >>> means_nothing("None."), means_nothing("none of your mugs")
        (True, False)
    """
    return (
        len(words) <= MAX_WORDS_CHARS
        and _END_MARKS.sub("", words).replace("_", " ").strip().rstrip(".。!！ ").lower() in NOTHING
    )


def says_absent(words: str) -> bool:
    """Whether prose says that the thing is not there.

    Example:
        >>> says_absent("There is no red mug on the table."), says_absent("The mug is not fully visible.")
        (True, False)
        >>> says_absent("图中没有红色的杯子。"), says_absent("I cannot view images.")
        (True, False)
    """
    head = _IF.sub(_said_anyway, _TAGS.sub(" ", words[:MAX_WORDS_CHARS]))
    return _absent().search(head) is not None and _REFUSAL.search(head) is None


def _said_anyway(conditional: re.Match[str]) -> str:
    """What a sentence with "if" says all the same: nothing behind "if there is none", all behind "if I look closely"."""
    clause, *rest = re.split("[,，]", conditional[0], maxsplit=1)
    is_case = _ANOTHER_CASE.match(clause) or _absent().search(clause)
    return _IF.sub(_said_anyway, rest[0]) if rest and not is_case else " "


def denies_it(words: str, expression: str) -> bool:
    """Whether the prose before a box says of the picture as a whole, or of what was asked for, that it is not there: that holds
    against the box, too.

    A sentence that leads up to the box without a "but" describes what is boxed, and one about a part says nothing of the
    whole ("her head is not visible in the picture").

    Example:
        >>> denies_it("I could not find a red mug; the closest is the bowl: ", "the red mug")
        True
        >>> denies_it("I cannot see the handle, but the mug is at ", "mug")
        False
    """
    *ended, leading = re.split(r"[.。!！?？\n]", words[:MAX_WORDS_CHARS])
    return any(
        _SAYS_WHERE.search(s) and not _PARTLY_OR_OTHER.search(s) and says_absent(s)
        for s in (*ended, *([leading] if _BUT.search(leading) else []))
        if re.search(r"\bthere\b", s, re.IGNORECASE) or not _OF_A_PART.search(s)
    ) or _denies_by_name(words[:MAX_WORDS_CHARS], expression)


def _denies_by_name(words: str, expression: str) -> bool:
    asked = normal(expression)
    *parts, leading = _PARTS.split(words)  # what leads up to the box says where it is
    if not asked or normal(leading).startswith(asked):
        return False
    named = [normal(part) for part in parts]
    is_spaced = _UNSPACED.search(asked) is None
    return any(
        asked in part
        and says_absent(said := part.replace(asked, "it"))
        and (_OF_IT_ITSELF.search(said) if is_spaced else "it的" not in said and "itの" not in said)
        for part in named
    )
