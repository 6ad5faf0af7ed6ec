"""Canned estimators: numbers and words of a table, by a linear model and a network, with metrics."""

import os

import numpy as np

import dtrain as tf

random = np.random.RandomState(0)
count = 400
table = {
    "age": random.randint(18, 70, count).astype(np.float32),
    "hours": random.uniform(0, 60, count).astype(np.float32),
    "job": random.choice(["cook", "clerk", "pilot"], count).astype(object),
}
earns = (table["hours"] > 30) & ((table["job"] == "pilot") | (table["age"] > 40))
labels = earns.astype(np.int32)
training, test = slice(0, 300), slice(300, count)


def inputs(part, **how):
    columns = {name: column[part] for name, column in table.items()}
    return tf.estimator.inputs.numpy_input_fn(columns, labels[part], **how)


column = tf.feature_column
age = column.numeric_column("age")
hours = column.numeric_column("hours", normalizer_fn=lambda h: (h - 30) / 20)
job = column.categorical_column_with_vocabulary_list("job", ["cook", "clerk", "pilot"])
wide = [column.bucketized_column(age, [25, 40, 55]), hours, job]
deep = [column.bucketized_column(age, [25, 40, 55]), hours, column.indicator_column(job)]

config = tf.estimator.RunConfig(tf_random_seed=2, log_step_count_steps=None, save_summary_steps=None)
folder = os.environ["LOG_DIR"]
linear = tf.estimator.LinearClassifier(wide, os.path.join(folder, "linear"), config=config)
network = tf.estimator.DNNClassifier(
    [16, 8], deep, os.path.join(folder, "deep"), optimizer=tf.train.AdamOptimizer(0.02), config=config
)
for name, model in (("linear", linear), ("network", network)):
    model.train(inputs(training, batch_size=50, num_epochs=None, shuffle=True), steps=80)
    found = model.evaluate(inputs(test, num_epochs=1, shuffle=False))
    for metric in ("accuracy", "auc", "precision", "recall"):
        print(f"{name} {metric} {found[metric]:.4f}")
