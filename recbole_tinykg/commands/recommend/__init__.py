"""`recbole-tinykg recommend`: the flags (`command`), and tables, CSV and JSON lines (`output`)."""

from recbole_tinykg.commands.recommend.command import run

__all__ = ["run"]
