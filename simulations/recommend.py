"""The recommender of common/recommend.py, under the name that commands and studies know; nothing is defined here."""

from hushrec.common.recommend import Wish, no_history, recommend

__all__ = ["Wish", "no_history", "recommend"]
