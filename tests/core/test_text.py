"""Words of scripts with and without spaces between them, and the one form in which texts are compared."""

import pytest

from stages.core.text import clip_words, comparable, count_words, letters, plain_words

THAI = "วิธีคืนสินค้า"


@pytest.mark.parametrize(
    "text, count, cut",
    [
        ("", 0, ""),
        ("  how to\n return it", 4, "  how to\n return"),
        ("退货政策：您可以", 7, "退货政"),
        ("您好，世界！", 4, "您好，世"),
        ("コーヒーの淹れ方", 8, "コーヒ"),
        ("Python 3.12的新功能", 6, "Python 3.12的"),
        (THAI, 8, "วิธีคื"),
        ("ภาษา ไทย", 7, "ภาษ"),
        ("한국어 검색 방법 안내", 4, "한국어 검색 방법"),
        ("سياسة إرجاع المنتجات بعد", 4, "سياسة إرجاع المنتجات"),
        ("उत्पाद कैसे लौटाएं जी", 4, "उत्पाद कैसे लौटाएं"),
    ],
)
def test_words_are_counted_and_cut_in_every_script(text, count, cut):
    assert count_words(text) == count and clip_words(text, 3) == cut
    assert clip_words(text, 0) == "" and clip_words(text, 100) == text.rstrip()


def test_vowel_signs_belong_to_words():
    assert plain_words("हिन्दी में") == ["हिन्दी", "में"] and letters("की") != letters("कि")
    assert plain_words("退货 np.read_csv²") == ["退", "货", "np", "read", "csv²"]


@pytest.mark.parametrize(
    "text, other",
    [
        ("Trả hàng", "Tra\u0309 ha\u0300ng"),
        ("ｐａｒｃｅｌ　１２", "Parcel 12"),
        ("par\u00adcel \u200bpost\ufeff", "parcel post"),
        ("\u200fכיצד\u200e", "כיצד"),
        ("❤️ cards", "❤ cards"),
        ("می‌خواهم", "میخواهم"),
        ("ﬁnd straße", "FIND STRASSE"),
    ],
)
def test_what_people_see_as_one_text_compares_equal(text, other):
    assert comparable(text) == comparable(other) and letters(text) == letters(other)
