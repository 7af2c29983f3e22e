"""`jinfer bench serve`: load on a server that speaks OpenAI's HTTP interface, and what its users would feel.

conversations   a workload's name -> what is asked, by number       plain Python
bodies          a turn and its history -> the body of a request     plain Python
events          bytes -> server-sent events                         plain Python
answers         events -> text, times, usage; what is wrong         plain Python
client          a request over HTTP -> an answer, or an AnswerError aiohttp
load            when requests are sent: open and closed loop        asyncio
records         what is kept of a request; TTFT, ITL, TPOT          plain Python
job             a load as data                                      plain Python
part, processes a load from one process, or from several            asyncio, JSON over pipes
figures         records -> rates, percentiles, goodput              plain Python
report, plot    figures -> text, a picture
cli, options    the command line; command runs it
"""
