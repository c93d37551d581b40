import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.near import candidate_pairs, jaccard, joined, near_groups, shingles, signature

WORDS = [f"word{number}" for number in range(400)]


def sentence(seed, count=60):
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


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
    assert near_groups(texts) == joined(similar)
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
    assert len(candidate_pairs(signatures)) < 1_000


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda pair: pair[0] != pair[1])))
def test_joined_groups_are_the_connected_ones(pairs):
    groups = joined(pairs)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    place = {member: number for number, group in enumerate(groups) for member in group}
    assert sum(map(len, groups)) == len(place) == len({at for pair in pairs for at in pair})
    assert all(place[one] == place[other] for one, other in pairs)


def test_a_signature_is_a_function_of_the_words_alone():
    assert (signature("One two, three four!") == signature("one  TWO three\nfour")).all()
    assert (signature("one two three four") != signature("one two three five")).any()
