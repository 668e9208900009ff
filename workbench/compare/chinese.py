"""The report in Chinese: every text of it -> the same in Chinese, with the same places for values."""

CHINESE = {
    ("{title} against cost; dashed: methods that no other beats in both"): (
        "{title}与成本；虚线：没有别的方法在两方面都更好"
    ),
    "Learning curves": "学习曲线",
    "{title} by training rows": "{title}随训练行数的变化",
    "Trials of tuning: validation loss by learning rate": "调参试验：验证损失与学习率",
    "chosen": "选中",
    "right": "正确",
    "Confusion matrix of {method}": "{method} 的混淆矩阵",
    "trainable parameters": "可训练参数",
    "training time (minutes)": "训练时间（分钟）",
    "peak memory of training (GB)": "训练峰值内存（GB）",
    "bytes of what was trained": "所训练部分的字节数",
    "training loss": "训练损失",
    "validation loss": "验证损失",
    "nats per token": "每词元的 nat 数",
    "optimizer step": "优化器步数",
    "training rows": "训练行数",
    "It would pass {other} ({score}) at about {rows} rows.": "大约在 {rows} 行时会超过 {other}（{score}）。",
    (
        "{entry}: each doubling of the training rows changes {title} by {slope}; of {rows} rows {expected} is expected."
    ): ("{entry}：训练行数每翻一倍，{title}变化 {slope}；预计 {rows} 行时为 {expected}。"),
    "It is ahead of {other} ({score}).": "它领先于 {other}（{score}）。",
    "It is behind {other} ({score}), and not known to reach it.": "它落后于 {other}（{score}），尚不知能否追上。",
    "few": "很少",
    "no bound": "无上限",
    "It passes {other} ({score}) at about {rows} rows.": "大约在 {rows} 行时超过 {other}（{score}）。",
    ("{examples} examples of {split} are near copies of examples of {of}, {same} with the same answer: {shown}"): (
        "{split} 中有 {examples} 个样本与 {of} 中的样本几乎相同，其中 {same} 个答案也相同：{shown}"
    ),
    "{one} of {other} ({similarity:.2f})": "{one} 与 {other}（{similarity:.2f}）",
    ("{examples} examples of {split} are near copies of others before them, {same} with the same answer: {shown}"): (
        "{split} 中有 {examples} 个样本与前面的样本几乎相同，其中 {same} 个答案也相同：{shown}"
    ),
    ("{written} written answers, {distinct} of them different"): (
        "书写的答案 {written} 个，其中互不相同的 {distinct} 个"
    ),
    "{median}, at most {longest}": "{median}，最多 {longest}",
    ", ": "、",
    "{count} more labels": "另有 {count} 个标签",
    "{count} left out as too long": "{count} 个因过长而未采用",
    "labels": "标签",
    ("the machine was {times:.1f} times slower before or after it than at its best"): (
        "在它之前或之后，机器比最快时慢 {times:.1f} 倍"
    ),
    ("other processes took {others:.1f} of {cores} cores while it was trained"): (
        "训练时其他进程占用了 {cores} 个核中的 {others:.1f} 个"
    ),
    ("other processes took {others:.1f} of {cores} cores while it was scored"): (
        "评分时其他进程占用了 {cores} 个核中的 {others:.1f} 个"
    ),
    "Times marked with * are not to be compared: {said}.": "带 * 的时间不可比较：{said}。",
    "{first} and {last}": "{first}和{last}",
    " ": "",
    "{metric} on {split}": "{split} 上的{metric}",
    "Checkpoint: {name}.": "检查点：{name}。",
    "**{method}**, seed {seed}: {text}": "**{method}**，种子 {seed}：{text}",
    "**{method}** failed: {reason}": "**{method}** 失败：{reason}",
    "How many examples are needed": "需要多少样本",
    "What ships": "可以交付什么",
    "What else changed": "还有什么变了",
    "Scores with 95 % bootstrap intervals over the test examples.": "分数附有对测试样本自助法所得的 95 % 区间。",
    ("Seeds are not in them: each method was trained with one (--seeds 3 puts them in)."): (
        "区间不含种子：每种方法只用一个种子训练（--seeds 3 可将其纳入）。"
    ),
    "{seconds:.0f} s, {others:.1f} of {cores} cores": "{seconds:.0f} 秒，{cores} 核中的 {others:.1f} 个",
    "Warning: {warning}.": "注意：{warning}。",
    (
        "merged/ is a plain checkpoint: reloaded in a fresh process, its logits differ from the trained "
        "model's by at most {difference:.2g} (largest logit {largest:.3g}; the base differs by {base:.3g}), "
        "and its {answers} are the same on {share:.0%} of {prompts} held-out prompts."
    ): (
        "merged/ 是普通检查点：在新进程中重新读取后，其 logit 与训练所得模型最多相差 "
        "{difference:.2g}（最大 logit 为 {largest:.3g}；基础模型相差 "
        "{base:.3g}），在 {prompts} 个留出提示中有 {share:.0%} "
        "的{answers}相同。"
    ),
    (
        "Means of {seeds} seeds with 95 % intervals, which cover the choice of test examples (bootstrap) "
        "and of seeds; costs are means, too."
    ): ("{seeds} 个种子的均值及 95 % 区间，区间涵盖测试样本（自助法）与种子的选取；成本也是均值。"),
    "It answers {speed:.1f} times as fast as the adapter.": "其回答速度是适配器的 {speed:.1f} 倍。",
    (
        "It was {base}: validation loss {trained:.3f} as trained, {shipped:.3f} as shipped; the scores are "
        "of what is shipped."
    ): ("其来历：{base}；验证损失训练时为 {trained:.3f}，交付时为 {shipped:.3f}；分数属于所交付的模型。"),
    "nothing": "无",
    ("at the edge of {name}, {low:g} to {high:g}: a better one may lie beyond"): (
        "位于 {name} 范围 {low:g} 至 {high:g} 的边缘：更好的值可能在范围之外"
    ),
    "stopped early": "提前停止",
    "classes": "类别",
    "greedy answers": "贪心解码答案",
    "failed: {reason}": "失败：{reason}",
    "The run took {total:.1f} minutes. Beside each other, in minutes: {parts}.": (
        "本次运行用时 {total:.1f} 分钟。同时进行的各部分（分钟）：{parts}。"
    ),
    "One after another, {minutes:.1f} minutes were expected.": "若逐个进行，预计需要 {minutes:.1f} 分钟。",
    "The run took {total:.1f} minutes: {parts}.": "本次运行用时 {total:.1f} 分钟：{parts}。",
    "tuning": "调参",
    "parts of the data": "部分数据",
    "everything else": "其余",
    "Expected were {minutes:.1f} minutes.": "预计为 {minutes:.1f} 分钟。",
    (
        "Cut to end within {minutes:g} minutes: every method made {steps} of the recipe's {full_steps} steps "
        "(about {tokens} tokens, the same for each), and scored are {scored} examples."
    ): (
        "为在 {minutes:g} 分钟内结束而缩减：每种方法做了配方 {full_steps} "
        "步中的 {steps} 步（约 {tokens} 个词元，各方法相同），评分的样本为 {scored}。"
    ),
    "plain checkpoint": "普通检查点",
    "adapter": "适配器",
    "method": "方法",
    "{method} ({done} of {seeds} seeds)": "{method}（{seeds} 个种子中的 {done} 个）",
    "forgetting (nats)": "遗忘（nat）",
    "membership AUC": "成员推断 AUC",
    "known by heart": "背下的内容",
    ("The whole job fits into the {minutes:g} minutes that it was given."): (
        "全部工作能在给定的 {minutes:g} 分钟内完成。"
    ),
    "{count} of {all} of {split}": "{split} 的 {all} 个中的 {count} 个",
    "{method} (seed {seed})": "{method}（种子 {seed}）",
    "ships as": "交付形式",
    "{seconds}, resumed": "{seconds}，曾中断",
    "trained": "训练的参数",
    "seconds": "秒",
    "tokens/s": "词元/秒",
    "s/1,000 texts": "秒/千条文本",
    "memory": "内存",
    "{share:.0%} of {named}": "{named} 处中的 {share:.0%}",
    ("Forgetting: by how much the loss on a fixed general text in English and Chinese rose, in nats per token."): (
        "遗忘：在一篇固定的中英文通用文本上，损失上升了多少（每词元的 nat 数）。"
    ),
    (
        "Membership AUC: how often an example that was trained on has a lower loss than one that was not; "
        "0.5 tells nothing, and what the untuned checkpoint has is no doing of the training."
    ): ("成员推断 AUC：训练过的样本比未训练过的样本损失更低的频率；0.5 表示无法分辨，未调检查点已有的差异与训练无关。"),
    (
        "Known by heart: figures and names in the answers of training that the model would write itself, "
        "though they do not stand in the prompt."
    ): ("背下的内容：训练答案中的数字和人名地名，虽不在提示里，模型自己也会写出。"),
    "tuning (s)": "调参（秒）",
    "training costs": "训练费用",
    "1,000 texts cost": "千条文本费用",
    "{taken} of {expected}": "{taken}（预计 {expected}）",
    ("No training was shown to be worth its cost: {free} may be as good."): (
        "没有证据表明训练值得其成本：{free}可能同样好。"
    ),
    ("{examples} test examples ({here} here) with {seeds} seeds ({seeds_here} here)"): (
        "{examples} 个测试样本（此处 {here} 个）和 {seeds} 个种子（此处 {seeds_here} 个）"
    ),
    "difference in {label}": "{label} 之差",
    ("If the difference between {one} and {other} is as large as it looks, {told} would tell it."): (
        "如果 {one} 与 {other} 之间的差别确如所见，{told}就能分辨。"
    ),
    ("This is said of the models that were trained, with one seed each: another seed may change it (--seeds 3)."): (
        "以上结论只针对所训练的模型，每种方法一个种子：换一个种子可能不同（--seeds 3）。"
    ),
    "No method was carried to its end.": "没有方法完成。",
    "Best by {metric} on {split}: {best}, {score}.": "按 {split} 上的{metric}，最好的是 {best}：{score}。",
    ("Every other method is behind it by more than luck explains (95 % confidence)."): (
        "其他方法都落后于它，且超出偶然所能解释的程度（置信度 95 %）。"
    ),
    ("With 95 % confidence the best is among {among}: their differences may be luck."): (
        "以 95 % 的置信度，最好的在 {among}之中：它们之间的差别可能出于偶然。"
    ),
    "more than can be had": "多到无法取得",
    "{examples} test examples ({here} here)": "{examples} 个测试样本（此处 {here} 个）",
    ("So small a difference as that between {one} and {other} no number of examples would tell."): (
        "{one} 与 {other} 之间的差别如此之小，再多样本也分辨不出。"
    ),
    "This holds for other seeds, too: {seeds} were carried through.": "这对其他种子也成立：共完成了 {seeds} 个。",
    "Nothing to compare it with.": "没有可与之比较的。",
    "Behind by more than luck explains: {behind}.": "落后超出偶然所能解释的程度：{behind}。",
    ("With 95 % confidence the best is among {among}, which are all: their differences may be luck."): (
        "以 95 % 的置信度，最好的在 {among}之中，也就是全部：它们之间的差别可能出于偶然。"
    ),
    "methods": "方法",
    "adjusted": "校正后",
    "would tell": "需要多少才能分辨",
    (
        "{items} independent test examples are too few to tell methods apart: even if one were better on "
        "all of them, that could be luck."
    ): ("{items} 个独立测试样本太少，无法分辨方法：即使某种方法在所有样本上都更好，也可能出于偶然。"),
    "{b} against {a}": "{b} 对 {a}",
    "table": "表格",
    "{name}: comparison of methods": "{name}：方法比较",
    "to the comparison": "跳到比较",
    "Licence: {licence}.": "许可：{licence}。",
    "Comparison": "比较",
    ("Seconds are those of training, on the machine named below; answers are timed as they ship."): (
        "秒数为训练所用，机器见下文；回答的用时以交付形式计。"
    ),
    "Quality against cost": "质量与成本",
    "Dashed: the methods that no other beats in both.": "虚线：没有别的方法在两方面都更好。",
    "Hollow: its time is not to be compared.": "空心：其时间不可比较。",
    "Is the difference luck?": "差别是否出于偶然？",
    "row less column": "行减列",
    "p, adjusted: {p}": "校正后的 p 值：{p}",
    ("Green: the row is better by more than luck explains; orange: it is worse; grey: it may be luck."): (
        "绿色：该行更好，超出偶然所能解释的程度；橙色：更差；灰色：可能出于偶然。"
    ),
    "All pairs, and what would tell them apart": "所有配对，以及需要多少才能分辨",
    "metric": "指标",
    "difference": "差",
    "p, adjusted": "校正后的 p 值",
    "told from luck": "可与偶然区分",
    "would tell a difference as large": "能分辨同样大的差别",
    "from {difference}": "{difference} 起",
    (
        "Intervals by a paired bootstrap, p-values by approximate randomization of the same examples; adjusted "
        "for the number of pairs by Holm's method."
    ): ("区间由配对自助法得出，p 值由对相同样本的近似随机化检验得出，并按配对数用 Holm 法校正。"),
    "Both cover what other seeds might have changed.": "两者都涵盖其他种子可能带来的变化。",
    ("Told from luck: the smallest difference that 80 of 100 such runs would find."): (
        "可与偶然区分：100 次同样的运行中有 80 次能发现的最小差别。"
    ),
    (
        "Nested parts of the training rows, all scored on the same {count} examples; hollow: what the line "
        "expects of twice the rows."
    ): ("逐级包含的训练行子集，均在同样的 {count} 个样本上评分；空心：按直线预计两倍行数的结果。"),
    ("Intervals by a paired bootstrap over the examples, with the deviation between seeds."): (
        "区间由对样本的配对自助法得出，并含种子间的差异。"
    ),
    ("Intervals by a paired bootstrap over the examples; seeds are not in them."): (
        "区间由对样本的配对自助法得出，不含种子。"
    ),
    "Means of the seeds; bands from the lowest to the highest.": "各种子的均值；色带为最低到最高。",
    "How the settings were chosen": "设置是如何选定的",
    (
        "At most {count} trials of each on the validation split alone, then trained anew with the best (ringed), "
        "with other seeds. Hollow: stopped early."
    ): ("每种方法只在验证集上最多试 {count} 次，然后用最好的设置（圈出）和其他种子重新训练。空心：提前停止。"),
    "All trials": "所有试验",
    "settings": "设置",
    "result": "结果",
    "What was taken for what": "什么被当成了什么",
    ("Rows: the right class; columns: the chosen one; shaded by the share of the row."): (
        "行：正确类别；列：所选类别；按行内比例着色。"
    ),
    "Answers side by side": "答案对照",
    "Search questions and answers": "搜索问题和答案",
    "split": "数据集",
    "all": "全部",
    "order": "排序",
    "as they were asked": "按提问顺序",
    "methods furthest apart first": "方法分歧最大者在前",
    "lowest score first": "分数最低者在前",
    "highest score first": "分数最高者在前",
    "mean of all": "全部的均值",
    "only where methods differ": "只看方法答案不同的",
    "mark differences to the reference": "标出与参考答案的差别",
    (
        "questions shown. Marked: what the reference does not say, and, struck through, what it says and "
        "the answer does not."
    ): ("个问题。标出：参考答案没有的内容；划掉的是参考答案有而回答没有的内容。"),
    "reference": "参考答案",
    "(nothing)": "（无）",
    "Details": "详情",
    "All scores": "所有分数",
    "score": "分数",
    "Each seed": "每个种子",
    "standard deviation": "标准差",
    "{label} by seed": "各种子的 {label}",
    "Time: taken, of what was expected": "用时与预计",
    "training": "训练",
    "evaluation": "评估",
    "export": "导出",
    "What the machine did meanwhile": "机器当时的状况",
    "training: processor, others": "训练：处理器、其他程序",
    "evaluation: processor, others": "评估：处理器、其他程序",
    "reference product before / after (ms)": "前 / 后的参考乘积（毫秒）",
    "energy": "能耗",
    "disturbed by": "干扰",
    "Data": "数据",
    "examples": "样本数",
    "tokens of one": "单个样本的词元数",
    "answers": "答案",
    "to be known": "须知",
    ("Left out of training: {repeated} repeated, {leaked} that stand in another split, too."): (
        "未用于训练：重复的 {repeated} 个，也出现在其他数据集中的 {leaked} 个。"
    ),
    "Chat template: {remark}": "对话模板：{remark}",
    "Machine, versions, and how to repeat it": "机器、版本与如何重复",
    "The same once more:": "再做一次：",
    "Or, with what came out the same told:": "或者重复并报告哪些结果相同：",
    "sha256 of the recipe": "配方的 sha256",
}
