"""The former name of export.py: images of 224x224 and logits, unless its options say otherwise."""
import common
from export import main as export


def main(argv=None):
    export(argv, shape=(224, 224), logits=True)


if __name__ == '__main__':
    common.run(main)
