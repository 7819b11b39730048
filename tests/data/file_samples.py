"""Files of every format, made by code for the tests of sources."""

import gzip
import io
import zipfile

import pyarrow

PAGE = """<!DOCTYPE html><html lang="en-GB"><head><meta charset="utf-8"><title>A title &amp; more</title>
<meta name="author" content="Ann Other"><meta property="article:published_time" content="2024-05-01T10:00:00Z">
<link rel="canonical" href="https://example.org/page"></head>
<body><nav><a href="/">Home</a> <a href="/all">All pages</a></nav><main><h1>Heading</h1>
<p>The first paragraph of the page says something that is worth reading.</p>
<script>var tracked = true;</script><p>The second one says more.</p></main><footer>All rights</footer></body></html>"""


def compress(raw: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(raw)
    return pyarrow.Codec("zstd").compress(raw, asbytes=True) if ending == ".zst" else raw


def warc_record(address, body, content_type="text/html", status="200 OK", extra="", kind="response"):
    http = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{extra}\r\n".encode() + body
    payload, outer = (http, "application/http; msgtype=response") if kind == "response" else (body, content_type)
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {address}\r\nWARC-Date: 2024-05-01T10:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:1>\r\nContent-Type: {outer}\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload + b"\r\n\r\n"


def epub(chapters, extra=None, **fields):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip")
        container = '<container xmlns="urn:x"><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
        book.writestr("META-INF/container.xml", container)
        told = "".join(f"<dc:{key}>{value}</dc:{key}>" for key, value in fields.items())
        items = "".join(
            f'<item id="c{n}" href="chapter%20{n}.xhtml" media-type="application/xhtml+xml"/>'
            for n in range(len(chapters))
        )
        order = "".join(f'<itemref idref="c{n}"/>' for n in reversed(range(len(chapters))))
        package = f'<package xmlns="p" xmlns:dc="d"><metadata>{told}</metadata><manifest>{items}</manifest>'
        book.writestr("OPS/book.opf", f"{package}<spine>{order}</spine></package>")
        for n, chapter in enumerate(chapters):
            book.writestr(f"OPS/chapter {n}.xhtml", chapter)
        for name, content in (extra or {}).items():
            book.writestr(name, content)
    return file.getvalue()


def pdf(pages, title="A paper"):
    """A PDF file with one line of text on each page, written by hand."""
    objects = ["<</Type/Catalog/Pages 2 0 R>>", ""]
    numbers = []
    for text in pages:
        stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        objects.append(f"<</Length {len(stream)}>>stream\n{stream}\nendstream")
        font = "<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
        box = "/MediaBox[0 0 500 200]"
        objects.append(f"<</Type/Page/Parent 2 0 R{box}/Contents {len(objects)} 0 R/Resources{font}>>")
        numbers.append(len(objects))
    objects[1] = f"<</Type/Pages/Count {len(pages)}/Kids[{' '.join(f'{n} 0 R' for n in numbers)}]>>"
    objects.append(f"<</Title({title})/Author(Ann Other)/CreationDate(D:20240501100000Z)>>")
    body, places = "%PDF-1.4\n", []
    for n, content in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{n} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    count = len(objects) + 1
    tail = f"trailer<</Size {count}/Root 1 0 R/Info {count - 1} 0 R>>\nstartxref\n{len(body)}\n%%EOF"
    return f"{body}xref\n0 {count}\n0000000000 65535 f \n{table}{tail}".encode()


WARC = (
    warc_record("https://a.org/0", b"GET /", kind="request")
    + warc_record("https://a.org/1", PAGE.encode())
    + warc_record("https://a.org/2", b"gone", status="404 Not Found")
    + warc_record("https://a.org/3", "caf\u00e9 au lait".encode("cp1252"), "text/html; charset=ISO-8859-1")
    + warc_record("https://a.org/4", gzip.compress(b"<p>packed</p>"), extra="Content-Encoding: gzip\r\n")
    + warc_record(
        "https://a.org/5", b"6\r\n<p>in \r\n9\r\nparts</p>\r\n0\r\n\r\n", extra="Transfer-Encoding: chunked\r\n"
    )
    + warc_record("https://a.org/6", b"\x89PNG", "image/png")
    + warc_record("https://a.org/7", b"plain text of a page", "text/plain", kind="conversion")
)
