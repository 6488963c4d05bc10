# Letters of many scripts are the point of this file.
# ruff: noqa: RUF001
"""Answers as data sets have them: GOOD ones must pass every rule, BAD ones name the rules that must flag them.

The default limits of the rules were chosen on these.
"""

import random
from textwrap import dedent

TABLE = """\
| Model | Params | MMMU | MathVista | OCRBench |
|-------|--------|------|-----------|----------|
| InternVL2.5-1B | 0.9B | 40.9 | 43.2 | 785 |
| InternVL2.5-2B | 2.2B | 43.6 | 51.3 | 804 |
| InternVL2.5-4B | 3.7B | 52.3 | 60.5 | 828 |
| InternVL2.5-8B | 8.1B | 56.0 | 64.4 | 822 |
| InternVL2.5-26B | 25.5B | 60.0 | 67.7 | 852 |
| InternVL2.5-38B | 38.4B | 63.9 | 71.9 | 842 |
| InternVL2.5-78B | 78.4B | 70.1 | 72.3 | 854 |
"""

CODE = dedent('''\
    Here is a breadth-first search that returns the shortest path:

    ```python
    from collections import deque


    def shortest_path(graph, start, goal):
        """Return the list of nodes from start to goal, or None."""
        queue = deque([start])
        parent = {start: None}
        while queue:
            node = queue.popleft()
            if node == goal:
                path = []
                while node is not None:
                    path.append(node)
                    node = parent[node]
                return path[::-1]
            for neighbour in graph[node]:
                if neighbour not in parent:
                    parent[neighbour] = node
                    queue.append(neighbour)
        return None
    ```

    It visits every edge at most once, so the running time is O(V + E).
    ''')

HTML = dedent("""\
    <ul class="menu">
      <li class="menu-item"><a href="/home">Home</a></li>
      <li class="menu-item"><a href="/docs">Documentation</a></li>
      <li class="menu-item"><a href="/blog">Blog</a></li>
      <li class="menu-item"><a href="/about">About us</a></li>
      <li class="menu-item"><a href="/contact">Contact</a></li>
    </ul>
    """)

POEM = dedent("""\
    Row, row, row your boat,
    Gently down the stream.
    Merrily, merrily, merrily, merrily,
    Life is but a dream.

    Row, row, row your boat,
    Gently up the creek.
    If you see a little mouse,
    Don't forget to squeak!

    Row, row, row your boat,
    Gently to the shore.
    If you see a lion there,
    Don't forget to roar!
    """)

REASONING = dedent(r"""\
    We need all real $x$ with $x^4 - 5x^2 + 4 = 0$. Put $y = x^2$, so that $y^2 - 5y + 4 = 0$.

    Step 1: factor the quadratic. $(y - 1)(y - 4) = 0$, hence $y = 1$ or $y = 4$.

    Step 2: go back to $x$. If $y = 1$, then $x^2 = 1$, so $x = 1$ or $x = -1$. If $y = 4$, then $x^2 = 4$, so $x = 2$
    or $x = -2$.

    Step 3: check. $1 - 5 + 4 = 0$ and $16 - 20 + 4 = 0$; both hold.

    \[ \boxed{x \in \{-2, -1, 1, 2\}} \]
    """)

MATRIX = dedent("""\
    The 6 x 6 identity matrix is

    [[1, 0, 0, 0, 0, 0],
     [0, 1, 0, 0, 0, 0],
     [0, 0, 1, 0, 0, 0],
     [0, 0, 0, 1, 0, 0],
     [0, 0, 0, 0, 1, 0],
     [0, 0, 0, 0, 0, 1]]

    and multiplying any vector by it returns the vector unchanged.
    """)

RECIPE = dedent("""\
    1. Mix 200 g of flour with 100 g of butter.
    2. Mix in 50 g of sugar and a pinch of salt.
    3. Add one egg and mix until the dough is smooth.
    4. Wrap the dough and chill it for 30 minutes.
    5. Roll out the dough and cut out circles.
    6. Bake the circles at 180 degrees for 12 minutes.
    7. Let the biscuits cool on a rack.
    """)

CHINESE = (
    "这张图片展示了一座位于湖边的木制小屋，周围环绕着茂密的松树。湖面平静如镜，倒映着远处的雪山。"
    "小屋的门前停着一条红色的小船，旁边的木桩上系着绳子。天空中飘着几朵白云，阳光从云层间洒下，"
    "给整个场景增添了一种宁静的氛围。画面左侧有一条通往森林的小路，路边开满了黄色的野花。"
    "总体来说，这是一幅适合用来表现自然之美与宁静生活的摄影作品。"
)

JAPANESE = (
    "この写真には、夕暮れの海辺を歩く二人の人物が写っています。空は橙色から紫色へと移り変わり、"
    "波打ち際には小さな貝殻が散らばっています。遠くには灯台が見え、その光がかすかに海面を照らしています。"
)

THAI = "ภาพนี้แสดงตลาดน้ำในยามเช้า แม่ค้าหลายคนพายเรือขายผลไม้ ดอกไม้ และอาหารพื้นเมืองให้แก่นักท่องเที่ยวที่ยืนอยู่ริมคลอง"

HINDI = (
    "इस चित्र में एक किसान अपने खेत में काम कर रहा है। उसके पीछे दो बैल और एक पुराना हल दिखाई देता है। आसमान साफ़ है और सूरज निकल रहा है।"
)

RUSSIAN = "На фотографии изображена старая железнодорожная станция. Слева стоит паровоз, справа — группа пассажиров."

FRENCH = "Le café « L’Été » à Orléans est fermé : la façade, peinte en bleu, porte encore l’enseigne « CAFÉ\u00a0»."

DIALOGUE = dedent("""\
    Anna: Do you know where the library is?
    Ben: Yes, it is next to the town hall.
    Anna: Is it open on Sundays?
    Ben: No, it is closed on Sundays.
    Anna: Do you know when it opens on Mondays?
    Ben: Yes, it opens at nine.
    """)

TREE = dedent("""\
    project/
    ├── src/
    │   ├── main.rs
    │   └── lib.rs
    ├── tests/
    │   └── cli.rs
    └── Cargo.toml
    """)

CONTENTS = "\n".join(f"{number}. {title} {'.' * (60 - len(title))} {page}" for number, title, page in [
    (1, "Introduction", 3), (2, "Dynamic resolution", 7), (3, "Packing", 12), (4, "Evaluation", 31),
])  # fmt: skip

SQL = dedent("""\
    SELECT c.name, SUM(o.total) AS revenue
    FROM customers AS c
    JOIN orders AS o ON o.customer_id = c.id
    WHERE o.created_at >= '2024-01-01' AND o.created_at < '2025-01-01'
    GROUP BY c.name
    HAVING SUM(o.total) > 1000
    ORDER BY revenue DESC;
    """)

CHOICES = "The answer is B.\n\nA. A cat on a mat\nB. A dog on a mat\nC. A bird on a mat\nD. A fish on a mat"

EMPHASIS = "No, no, no, no! That is very, very, very wrong. Ha ha ha ha! Bye bye bye!"

BOXES = (
    "<ref>cat</ref><box>[[12, 40, 310, 560]]</box> and <ref>dog</ref><box>[[330, 52, 640, 588]]</box> lie on "
    "<ref>sofa</ref><box>[[0, 200, 1000, 900]]</box>."
)

GOOD = {
    "table": TABLE,
    "code": CODE,
    "html": HTML,
    "poem": POEM,
    "reasoning": REASONING,
    "matrix": MATRIX,
    "recipe": RECIPE,
    "chinese": CHINESE,
    "japanese": JAPANESE,
    "thai": THAI,
    "hindi": HINDI,
    "russian": RUSSIAN,
    "french": FRENCH,
    "dialogue": DIALOGUE,
    "tree": TREE,
    "contents": CONTENTS,
    "sql": SQL,
    "choices": CHOICES,
    "emphasis": EMPHASIS,
    "boxes": BOXES,
    "letter": "B",
    "yes": "Yes",
    "number": "3.14159",
    "short chinese": "是的。",
    "novemdecillion": (
        "In the short scale a novemdecillion is a one with sixty zeros, which is written out as 1" + "0" * 60 + ". "
        "The names of such large numbers are built from Latin numerals, and hardly anybody uses them: in science the "
        "same number is ten to the power of sixty, in the long scale it is a decillion."
    ),
}

_WORDS = random.Random(5).sample(
    [a + b + c for a in "bdklmnprst" for b in "aeiou" for c in ("r", "n", "lo", "mi")], 200
)
PROSE = " ".join(random.Random(7).choices(_WORDS, k=500))
PROSE = ". ".join(PROSE[start : start + 90] for start in range(0, len(PROSE), 90))
"""500 words of no language, without repetition beyond chance."""

BAD: dict[str, tuple[str, set[str]]] = {
    "ha, no spaces": ("ha" * 50, {"repeated-text"}),
    "ha, spaces": ("ha " * 50, {"repeated-text"}),
    "three words, twenty times": ("the cat sat " * 20, {"repeated-text", "endless-loop"}),
    "sentence, over and over": ("The image shows a cat sitting on a mat. " * 12, {"repeated-text", "endless-loop"}),
    "chinese loop": ("这是一只可爱的小猫。" * 15, {"repeated-text", "endless-loop"}),
    "chinese loop after text": (CHINESE + "他说的是真的。" * 30, {"repeated-text", "endless-loop"}),
    "loop at the end of a long answer": (PROSE + " " + "and so on and on " * 12, {"endless-loop"}),
    "loop cut within a word": (PROSE + " " + ("wait, let me check again. " * 9)[:-4], {"endless-loop"}),
    "loop with changing punctuation": (
        PROSE + " " + "".join(f"let me think about it{mark} " for mark in ".!?,;.!?,;"),
        {"endless-loop"},
    ),
    "loop with changing punctuation, cut within a word": (
        PROSE + " " + "".join(f"let me think about it{mark} " for mark in ".!?,;.!?,;") + "let me thi",
        {"endless-loop"},
    ),
    "loop of a long period": (PROSE + "\n" + (CHINESE + "\n") * 4, {"endless-loop"}),
    "loop in the middle": (
        "Let me think. " + "I should check the angle again. " * 15 + "The answer is 30 degrees.",
        {"repeated-text"},
    ),
    "the whole text twice": (REASONING + REASONING, {"repeated-text", "duplicate-lines"}),
    "a paragraph three times": ((RECIPE + "\n") * 3, {"repeated-text", "duplicate-lines"}),
    "the same line": ("The sky is blue.\n" * 8, {"repeated-text", "duplicate-lines", "endless-loop"}),
    "zeros": ("The value is 0." + "0" * 200, {"zero-run", "character-run"}),
    "zeros with separators": ("Embedding: [" + "0.0, " * 80 + "]", {"zero-run"}),
    "one letter": ("It hurts: a" + "a" * 300 + "!", {"character-run"}),
    "empty": ("   \n", {"short-answer"}),
    "one endless sentence": (PROSE.replace(".", "") + " " + PROSE[::-1], {"sentence-length"}),
    "symbols": ("@#$%^&*()_+{}|:<>?~`-=[]\\;',./!@#$%^&*()+ ok", {"symbols"}),
    "replacement characters": ("The caf\ufffd is cl\ufffdsed on M\ufffdndays.", {"garbled"}),
    "mojibake": ("Le cafÃ© de la gare est fermÃ© lâ€™Ã©tÃ©.", {"garbled"}),
    "chinese mojibake": ("è¿™æ˜¯ä¸€åªçŒ«".encode("cp1252", "ignore").decode("cp1252"), {"garbled"}),
    "control characters": ("Hello\x00\x01\x02 world, this was binary\x07.", {"garbled"}),
    "advertisement": (
        "\n".join(f"{n}. Offer {n}: visit https://shop.example/sale now" for n in range(9)),
        {"repeated-links"},
    ),
}
