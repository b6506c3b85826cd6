"""What stands on signs and pages beside single words: phrases with particles and endings, numbers, Latin words.

Everything draws from the generator that is passed in, and words of dictionaries come through the ``word`` function, so
that a source's split of the words holds inside phrases too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hangul_ocr.hangul import decompose, is_syllable

WordMaker = Callable[[int, np.random.Generator], str]

# Particles (조사) by what they follow: a final consonant, none. The second column of 로 also follows a final ㄹ.
PARTICLES = (("은", "는"), ("이", "가"), ("을", "를"), ("과", "와"), ("으로", "로"), ("이나", "나"), ("이라", "라"))
FIXED_PARTICLES = ("의", "의", "에", "에", "도", "만", "에서", "까지", "부터", "보다", "처럼", "만의", "에는", "마다")
# Forms of the verbs that turn a noun into a predicate (하다, 되다), of the copula, and what else follows a noun.
_PREDICATES = """
하는 하고 하기 하여 하면 할 한 해 해요 하세요 합니다 했습니다 했어요 하지 하게 되는 된 될 되어 됩니다 되었습니다
중 시 및 용 입니다 이에요 있는 없는 있습니다 없이
"""
PREDICATES = tuple(_PREDICATES.split())
FINAL_RIEUL = 8

_UNITS = "km m cm mm kg g L ml % 원 만원 명 개 회 번 층 호 평 년 월 일 시 분 초 주 가지 종 세 인분 위 점 매 장 권"
UNITS = tuple(_UNITS.split())
# What stands on the front of a shop, at a station, on a road and a menu after a name of its own.
_TRADES = """
약국 부동산 미용실 헤어 세탁소 식당 분식 치킨 떡집 정육점 철물 안경 치과 의원 한의원 내과 학원 어린이집 유치원 태권도
노래방 당구장 피시방 모텔 여관 공인중개사 법무사 빵집 제과 베이커리 카페 커피 꽃집 문구 서점 인쇄 공업사 카센터 타이어
주유소 마트 슈퍼 편의점 상회 상사 건재 전자 컴퓨터 통신 휴대폰 옷수선 양복점 신발 가구 인테리어 간판 낚시 사진관 목욕탕
은행 새마을금고 교회 성당 농협 우체국 경로당 아파트 빌딩 상가 시장 갈비 횟집 순대국 족발 보쌈 국밥 칼국수 냉면 반점 김밥
"""
TRADES = tuple(_TRADES.split())
_DISHES = """
찌개 탕 국 국밥 볶음밥 덮밥 비빔밥 칼국수 냉면 라면 우동 만두 전 구이 볶음 찜 조림 튀김 무침 정식 백반 갈비 불고기
삼겹살 까스 스파게티 피자 버거 샐러드 세트 라떼 주스 에이드 아이스크림 케이크 빵 떡 죽 전골 회 초밥 김밥 떡볶이 순대
족발 치킨
"""
DISHES = tuple(_DISHES.split())
_ROADS = """
역 로 길 대로 교차로 사거리 삼거리 터널 대교 공원 시장 시청 구청 주민센터 방면 입구 병원 대학교 초등학교
IC JC 휴게소 톨게이트
"""
ROADS = tuple(_ROADS.split())
_TITLES = """
{}의 {}|{} {}|{} 이야기|{} 입문|{}의 역사|{}학개론|{} 수업|나의 {}|{}의 이해|{} 사전|어린이 {}|처음 만나는 {}|{} 만들기
{} 그리고 {}|{}, {}|세상의 모든 {}|{}에서 온 편지|{} 없는 날
"""
TITLES = tuple(_TITLES.strip().replace("\n", "|").split("|"))
# What goods say of themselves before a colon, and what their small print asks for or forbids.
_KEYS = """
제조일 제조일자 유통기한 소비기한 제조원 제조국 판매원 수입원 원산지 품명 품번 제품명 모델명 규격 내용량 용량 중량 소재
색상 치수 사이즈 호칭 가격 전화 주소 문의 고객센터 보관방법 사용방법 세탁방법 원재료명 성분 혼용률 겉감 안감 등급
포장재질
"""
KEYS = tuple(_KEYS.split())
_ADVICE = """
{} 금지|{} 불가|{} 가능|{} 주의|{} 엄금|{} 필수|{} 제외|{} 포함|{} 별도|{} 시 주의사항|{} 후 사용|{}에 보관
{}에 주의하십시오.|{}하지 마십시오.|{}에서 멀리 두십시오.|{}하여 주십시오.|{}만 가능합니다.|{}에는 쓰지 마십시오.
"""
ADVICE = tuple(_ADVICE.strip().replace("\n", "|").split("|"))
EMPHASIS = ("!", "!", "?", ".", ".", ",", "~", "!!", "...", ":")
BRACKETS = (("(", ")"), ("(", ")"), ("[", "]"), ("<", ">"), ("'", "'"), ('"', '"'), ("‘", "’"), ("“", "”"))
JOINS = ("/", "·", "·", "&", "-", "+", ",", "~", " & ", " / ", " · ", " - ", ", ")
BULLETS = ("#", "#", "* ", "- ", "※ ", "★", "· ", "→ ")
DOMAINS = (".com", ".co.kr", ".kr", ".net")


def has_final(word: str) -> bool:
    """Tell whether ``word`` ends in a syllable with a final consonant (받침); digits and Latin count as without."""
    return bool(word) and is_syllable(word[-1]) and decompose(word[-1])[2] > 0


def with_particle(noun: str, rng: np.random.Generator) -> str:
    """Return ``noun`` with a particle in the form that its last syllable asks for."""
    if rng.random() < 0.5:
        return noun + _pick(FIXED_PARTICLES, rng)
    after_final, after_vowel = PARTICLES[int(rng.integers(len(PARTICLES)))]
    closed = has_final(noun) and not (after_vowel == "로" and decompose(noun[-1])[2] == FINAL_RIEUL)
    return noun + (after_final if closed else after_vowel)


def phrase(length: int, word: WordMaker, verbs: Sequence[str], latin: Sequence[str], rng: np.random.Generator) -> str:
    """Return eojeols (어절) with a space between, about ``length`` characters, now and then with marks around them."""
    parts: list[str] = []
    while (left := length - sum(map(len, parts)) - len(parts)) > 1 or not parts:
        parts.append(_eojeol(min(left, 7), word, verbs, latin, rng))
    return _marked(" ".join(parts), rng)


def _eojeol(longest: int, word: WordMaker, verbs: Sequence[str], latin: Sequence[str], rng: np.random.Generator) -> str:
    kind = rng.random()
    noun = word(int(rng.integers(1 if longest < 3 else 2, max(2, min(longest, 5)) + 1)), rng)
    if kind < 0.38 or longest < 3:
        return noun
    if kind < 0.62:
        return with_particle(noun, rng)
    if kind < 0.76:
        return noun + _pick(PREDICATES, rng)
    if kind < 0.9 and verbs:
        return _pick(verbs, rng)
    if kind < 0.95:
        return number(rng)
    return latin_word(latin, rng) + (_pick(FIXED_PARTICLES, rng) if rng.random() < 0.3 else "")


def _marked(text: str, rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < 0.14:
        return text + _pick(EMPHASIS, rng)
    if chance < 0.2:
        opening, closing = BRACKETS[int(rng.integers(len(BRACKETS)))]
        return opening + text + closing
    return _pick(BULLETS, rng) + text if chance < 0.24 else text


def joined(word: WordMaker, rng: np.random.Generator) -> str:
    """Return two or three short words with a mark between, or one with a part in brackets: 영어·수학, 제주(공항)."""
    first, second = (word(int(rng.integers(2, 5)), rng) for _ in range(2))
    if rng.random() < 0.35:
        opening, closing = BRACKETS[int(rng.integers(4))]
        return f"{first}{' ' if rng.random() < 0.2 else ''}{opening}{second}{closing}"
    mark = _pick(JOINS, rng)
    third = mark + word(2, rng) if rng.random() < 0.2 else ""
    return first + mark + second + third


def sign(word: WordMaker, rng: np.random.Generator) -> str:
    """Return what a shop front, a station, a road sign, a menu or a book's cover says: 늘봄약국, 판교역 3번 출구."""
    return _SIGNS[int(rng.integers(len(_SIGNS)))](word, rng)


def _shop(word: WordMaker, rng: np.random.Generator) -> str:
    name, trade = word(int(rng.integers(2, 5)), rng), _pick(TRADES, rng)
    forms = (f"{name}{trade}", f"{name}{trade}", f"{name} {trade}", f"{trade} {name}점")
    return _pick(forms, rng)


def _road(word: WordMaker, rng: np.random.Generator) -> str:
    name = word(int(rng.integers(2, 4)), rng) + _pick(ROADS, rng)
    exit_number, distance = int(rng.integers(1, 15)), int(rng.integers(1, 40))
    return _pick((name, name, f"{name} {exit_number}번 출구", f"{name} {distance}km", f"{name}{exit_number}길"), rng)


def _menu(word: WordMaker, rng: np.random.Generator) -> str:
    dish = word(int(rng.integers(1, 4)), rng) + _pick(DISHES, rng)
    return _pick(
        (dish, dish, f"{dish} {int(rng.integers(20, 300)) * 100:,}", f"{dish}(대)", f"{dish} {_price(rng)}"), rng
    )


def _title(word: WordMaker, rng: np.random.Generator) -> str:
    form = _pick(TITLES, rng)
    return form.format(*(word(int(rng.integers(2, 5)), rng) for _ in range(form.count("{}"))))


_SIGNS = (_shop, _road, _menu, _title)


def label(word: WordMaker, rng: np.random.Generator) -> str:
    """Return what is printed on goods: 제조일:2027.07, RX52KP08 BK 240, 95(100), (주)늘봄, 세탁기 금지."""
    return _LABELS[int(rng.integers(len(_LABELS)))](word, rng)


def _entry(word: WordMaker, rng: np.random.Generator) -> str:
    values = (_date, _date, _count, _article, _telephone, _digits)
    value = values[int(rng.integers(len(values)))](rng) if rng.random() < 0.6 else word(int(rng.integers(2, 6)), rng)
    return _pick(KEYS, rng) + _pick((":", ":", ": ", " "), rng) + value


def _articles(word: WordMaker, rng: np.random.Generator) -> str:
    parts = [_article(rng), _letters(rng, 2), _digits(rng)]
    return " ".join(parts[: int(rng.integers(1, 4))])


def _advice(word: WordMaker, rng: np.random.Generator) -> str:
    text = _pick(ADVICE, rng).format(word(int(rng.integers(2, 6)), rng))
    chance = rng.random()
    if chance < 0.2:
        return f"({text})"
    return _pick(BULLETS, rng) + text if chance < 0.35 else text


def _maker(word: WordMaker, rng: np.random.Generator) -> str:
    name = word(int(rng.integers(2, 6)), rng) if rng.random() < 0.6 else _letters(rng, 4)
    return _pick((f"(주){name}", f"(주){name}", f"{name}(주)", f"주식회사 {name}"), rng)


def _article(rng: np.random.Generator) -> str:
    """Return an article's number or a size: letters and digits in turn, 95(100), S(44-55)."""
    size = int(rng.integers(1, 120))
    if rng.random() < 0.2:
        return _pick(
            (f"{size}({size + 5})", f"{size:03d}({size // 2})", f"{_letters(rng, 2)}({size}-{size + 11})"), rng
        )
    turns = [_letters(rng, 4) + _digits(rng)[:3] for _ in range(int(rng.integers(1, 4)))]
    return _pick(("", "", "", "-"), rng).join(turns)


def _letters(rng: np.random.Generator, most: int) -> str:
    return "".join(chr(65 + int(i)) for i in rng.integers(26, size=int(rng.integers(1, most + 1))))


_LABELS = (_entry, _entry, _articles, _advice, _advice, _maker)


def number(rng: np.random.Generator) -> str:
    """Return a count with its unit, a price, a date, a time, a telephone number, a range, a code, or plain digits."""
    return _NUMBERS[int(rng.integers(len(_NUMBERS)))](rng)


def _count(rng: np.random.Generator) -> str:
    value = int(10 ** rng.uniform(0, 3.7))
    text = f"{value:,}" if rng.random() < 0.5 else str(value)
    if rng.random() < 0.12:
        text = f"{value % 100}.{rng.integers(10)}"
    return text + (" " if rng.random() < 0.05 else "") + _pick(UNITS, rng)


def _price(rng: np.random.Generator) -> str:
    value = int(rng.integers(1, 1000)) * int(rng.choice([100, 100, 500, 1000]))
    return f"{value:,}" + _pick(("원", "원", "", "원~", "~"), rng)


def _date(rng: np.random.Generator) -> str:
    year, month, day = int(rng.integers(1950, 2031)), int(rng.integers(1, 13)), int(rng.integers(1, 32))
    forms = (
        f"{year}.{month:02d}.{day:02d}",
        f"{year}-{month:02d}-{day:02d}",
        f"{year}년 {month}월 {day}일",
        f"{year}년 {month:02d}월 {day:02d}일",
        f"{year}년",
        f"{month}월 {day}일",
        f"{month}/{day}",
        f"{year}.{month:02d}",
        f"{month}월",
        f"'{year % 100:02d}.{month}.{day}",
    )
    return _pick(forms, rng)


def _time(rng: np.random.Generator) -> str:
    hour, minute = int(rng.integers(24)), int(rng.integers(12)) * 5
    return _pick((f"{hour:02d}:{minute:02d}", f"{hour}시", f"{hour}시 {minute}분", f"{hour % 12}:{minute:02d} PM"), rng)


def _telephone(rng: np.random.Generator) -> str:
    digits = "".join(map(str, rng.integers(10, size=8)))
    area = _pick(("02", "031", "032", "051", "053", "062", "010", "010", "070", "080"), rng)
    middle = digits[: int(rng.integers(3, 5))]
    forms = (f"{area}-{middle}-{digits[4:]}", f"{area}){middle}-{digits[4:]}", f"{middle}-{digits[4:]}")
    return _pick((*forms, forms[0], f"15{digits[:2]}-{digits[4:]}", f"☎ {forms[2]}", f"T.{forms[0]}"), rng)


def _range(rng: np.random.Generator) -> str:
    low, step = int(rng.integers(1, 60)), int(rng.integers(1, 40))
    return f"{low}{_pick(('~', '-', '~', ' ~ '), rng)}{low + step}" + (_pick(UNITS, rng) if rng.random() < 0.7 else "")


def _code(rng: np.random.Generator) -> str:
    """Return a model or line name: A-12, DX300, B1F, No.7."""
    letters = _letters(rng, 4)
    digits = "".join(map(str, rng.integers(10, size=int(rng.integers(1, 5)))))
    return _pick(
        (f"{letters}-{digits}", f"{letters}{digits}", f"{letters} {digits}", f"B{digits[0]}F", f"No.{digits}"), rng
    )


def _digits(rng: np.random.Generator) -> str:
    return "".join(map(str, rng.integers(10, size=int(rng.integers(1, 9)))))


_NUMBERS = (*[_count] * 3, *[_price] * 2, *[_date] * 2, _time, *[_telephone] * 2, _range, _code, _digits)


def latin(words: Sequence[str], rng: np.random.Generator) -> str:
    """Return one to three Latin words in one case, rarely an address of the net."""
    count = 1 + int(rng.random() < 0.35) + int(rng.random() < 0.12)
    found = [latin_word(words, rng) for _ in range(count)]
    if rng.random() < 0.06:
        return ("www." if rng.random() < 0.6 else "") + found[0].lower() + _pick(DOMAINS, rng)
    text = " ".join(found)
    return text.upper() if count > 1 and rng.random() < 0.5 else text


def latin_word(words: Sequence[str], rng: np.random.Generator) -> str:
    """Return a word in capitals, with a capital or in small letters; random letters where there are no words."""
    if words and rng.random() < 0.85:
        word = _pick(words, rng)
    else:
        word = "".join(chr(97 + int(i)) for i in rng.integers(26, size=int(rng.integers(2, 9))))
    chance = rng.random()
    return word.upper() if chance < 0.45 else word.capitalize() if chance < 0.75 else word


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.random() * len(choices))]
