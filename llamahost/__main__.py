"""python -m llamahost"""

from llamahost.cli import main

main()
