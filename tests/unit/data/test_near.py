import numpy as np

from tunesmith.data.near import candidate_pairs, jaccard, near_groups, shingles, signature

WORDS = [f"word{number}" for number in range(400)]


def sentence(seed, count=60):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def connected(pairs):
    """Groups that the pairs connect, by the plain method."""
    groups = []
    for pair in pairs:
        touched = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in touched] + [set(pair).union(*touched)]
    return sorted(sorted(group) for group in groups)


def test_one_changed_word_is_found_among_many_texts():
    texts = [sentence(seed) for seed in range(300)]
    changed = texts[7].split()
    changed[30] = "other"
    texts.append(" ".join(changed))
    texts.append(texts[9].upper() + "!")
    assert near_groups(texts) == [[7, 300], [9, 301]]


def test_what_is_found_is_similar_and_what_is_similar_is_found():
    random = np.random.default_rng(3)
    base = [sentence(seed, 40) for seed in range(40)]
    texts = []
    for text in base:
        for _ in range(3):
            words = text.split()
            for at in random.choice(len(words), random.integers(0, 3), replace=False):
                words[at] = f"new{random.integers(10**6)}"
            texts.append(" ".join(words))
    sets = [shingles(text) for text in texts]
    similar = [
        (one, other)
        for other in range(len(texts))
        for one in range(other)
        if jaccard(sets[one], sets[other]) >= 0.8
    ]
    assert near_groups(texts) == connected(similar)
    assert len(similar) > 10


def test_scripts_without_blanks_and_short_texts():
    first = "今天的天气非常好，我们决定一起去公园散步，然后在湖边吃午饭，下午再慢慢走回家休息。"
    assert near_groups([first, "别的文章没有关系。", first.replace("下午", "傍晚")], threshold=0.7) == [
        [0, 2]
    ]
    assert near_groups(["yes", "no", "Yes!", "", ""]) == [[0, 2]]
    assert near_groups([]) == []


def test_many_equal_rows_make_few_pairs():
    signatures = np.stack([signature("the same text again and again")] * 500)
    assert len(candidate_pairs(signatures)) <= 8 * 500
    assert near_groups(["the same text again and again"] * 500) == [list(range(500))]


def test_rows_with_much_text_in_common_do_not_hide_the_near_ones():
    frame = sentence(1, 40)
    texts = [f"{frame} {sentence(seed, 40)}" for seed in range(2, 200)]
    changed = texts[20].split()
    changed[60] = "other"
    assert near_groups([*texts, " ".join(changed)]) == [[20, 198]]


def test_a_signature_is_a_function_of_the_words_alone():
    assert (signature("One two, three four!") == signature("one  TWO three\nfour")).all()
    assert (signature("one two three four") != signature("one two three five")).any()
