"""100 pairs of sentences that mean the same, in the seven languages of the portal, for the embedding model."""

from __future__ import annotations

from collections.abc import Sequence

PAIRS: dict[str, list[tuple[str, str]]] = {
    "en": [
        ("The meeting was moved to Thursday afternoon.", "We will not meet until Thursday after lunch."),
        ("My laptop battery runs out after an hour.", "The computer has to be charged every sixty minutes."),
        ("The bakery opens at six in the morning.", "You can buy fresh bread from 6 a.m."),
        ("She has played the violin since she was a child.", "She began to learn a string instrument when she was little."),
        ("The bridge is closed because of strong wind.", "Nobody may cross the river there while it is so stormy."),
        ("Our cat sleeps on the warm radiator.", "The pet likes to nap where it is heated."),
        ("He forgot the password of his mailbox.", "He can no longer log in to his e-mail."),
        ("The museum is free on Sundays.", "No ticket is needed for the exhibition at the weekend."),
        ("Tomatoes need a lot of sun to ripen.", "Without light, these red vegetables stay green."),
        ("The flight from Oslo lands two hours late.", "The plane from Norway is delayed."),
        ("I would like to return these shoes, they are too small.", "The footwear does not fit; please take it back."),
        ("The dentist told me to brush more carefully.", "I must clean my teeth better, the doctor said."),
        ("The company hired thirty new engineers.", "The firm's technical staff has grown by 30 people."),
        ("Please turn the music down, the baby is asleep.", "Make less noise so that the infant does not wake up."),
        ("The library lends books for four weeks.", "After a month, borrowed novels must be brought back."),
    ],
    "de": [
        ("Der Zug nach Hamburg fällt heute aus.", "Die Bahnverbindung in die Hansestadt gibt es heute nicht."),
        ("Meine Großmutter backt jeden Samstag Apfelkuchen.", "Oma macht am Wochenende immer ein Gebäck mit Obst."),
        ("Die Miete wird im Januar um fünf Prozent erhöht.", "Ab Jahresbeginn kostet die Wohnung mehr."),
        ("Das Schwimmbad ist wegen Reparaturen geschlossen.", "Im Hallenbad kann man während der Bauarbeiten nicht baden."),
        ("Er hat sich beim Skifahren das Bein gebrochen.", "Bei einem Unfall auf der Piste verletzte er sich schwer."),
        ("Bitte stellen Sie die Mülltonne an die Straße.", "Der Abfallbehälter muss zur Abholung hinaus."),
        ("Der Hund bellt, sobald der Briefträger kommt.", "Wenn die Post gebracht wird, wird das Tier laut."),
        ("Im Garten blühen die ersten Rosen.", "Die Blumen vor dem Haus öffnen ihre Knospen."),
        ("Der Drucker zieht kein Papier mehr ein.", "Das Gerät kann die Blätter nicht mehr greifen."),
        ("Sie sucht eine Stelle als Krankenschwester.", "Sie möchte in der Pflege arbeiten."),
        ("Das Konzert beginnt um zwanzig Uhr.", "Die Musik fängt abends um acht an."),
        ("Der Arzt verschrieb mir Tabletten gegen Kopfschmerzen.", "Ich habe ein Rezept für ein Mittel gegen Migräne bekommen."),
        ("Wir haben die Küche gelb gestrichen.", "Der Raum zum Kochen hat jetzt eine neue Wandfarbe."),
        ("Der Wahlsieg der Partei überraschte alle.", "Niemand hatte mit diesem Ergebnis der Abstimmung gerechnet."),
        ("Kinder unter sechs Jahren fahren im Bus umsonst.", "Für kleine Kinder braucht man keine Fahrkarte."),
    ],
    "es": [
        ("El restaurante sirve pescado fresco todos los días.", "Allí se come a diario lo que acaba de salir del mar."),
        ("He perdido las llaves del coche.", "No encuentro con qué arrancar mi automóvil."),
        ("La película dura casi tres horas.", "Es un filme muy largo."),
        ("Mañana lloverá en el norte del país.", "Se esperan precipitaciones en las regiones septentrionales."),
        ("Mi hermana estudia medicina en Valencia.", "Ella quiere ser doctora y va a la universidad."),
        ("El ordenador se apaga solo cuando se calienta.", "La máquina deja de funcionar por la temperatura."),
        ("Los precios de la gasolina han subido otra vez.", "El combustible está más caro que antes."),
        ("El equipo ganó el partido en el último minuto.", "Un gol final les dio la victoria."),
        ("Necesito un billete de ida y vuelta a Sevilla.", "Quiero viajar a Andalucía y regresar."),
        ("El bebé aprendió a caminar en verano.", "El niño dio sus primeros pasos en julio."),
        ("La profesora corrige los exámenes por la noche.", "La maestra pone las notas cuando oscurece."),
        ("Prohibido fumar dentro del edificio.", "No se permiten cigarrillos en el interior."),
        ("La tienda acepta tarjetas de crédito.", "Aquí se puede pagar sin efectivo."),
        ("El río se desbordó después de la tormenta.", "Hubo una inundación por las fuertes lluvias."),
    ],
    "fr": [
        ("Le musée du Louvre ferme le mardi.", "On ne peut pas voir les tableaux ce jour de la semaine."),
        ("J'ai acheté un vélo électrique d'occasion.", "Ma bicyclette à moteur n'est pas neuve."),
        ("La réunion de parents aura lieu à l'école.", "Les familles des élèves se retrouveront en classe."),
        ("Il neige depuis deux jours dans les Alpes.", "Les montagnes sont couvertes de blanc."),
        ("Le boulanger prépare ses croissants à quatre heures.", "Les viennoiseries sont faites très tôt le matin."),
        ("Mon voisin répare de vieilles montres.", "L'homme d'à côté remet des horloges en marche."),
        ("L'hôpital cherche des donneurs de sang.", "On demande aux gens d'aider les malades par une transfusion."),
        ("Elle a réussi son permis de conduire.", "Elle a maintenant le droit de rouler en voiture."),
        ("Le vin rouge se marie bien avec le fromage.", "Un bon bordeaux accompagne le camembert."),
        ("Ce téléphone a un très bon appareil photo.", "On fait de belles images avec ce portable."),
        ("Les syndicats appellent à la grève vendredi.", "Les salariés cesseront le travail en fin de semaine."),
        ("La plage est interdite aux chiens en été.", "Les animaux ne sont pas admis au bord de la mer en août."),
        ("Le traducteur parle six langues.", "Cet interprète est polyglotte."),
        ("L'eau du robinet est potable ici.", "On peut boire sans acheter de bouteilles."),
    ],
    "pt": [
        ("O elevador está parado entre dois andares.", "Há pessoas presas porque a cabine não se move."),
        ("A feira de livros acontece em maio.", "O evento literário é na primavera."),
        ("Meu avô pesca no lago aos domingos.", "O pai da minha mãe apanha peixes no fim de semana."),
        ("O salário será pago no dia cinco.", "Os funcionários recebem o dinheiro no começo do mês."),
        ("A internet está muito lenta hoje.", "As páginas demoram a carregar."),
        ("Ela plantou uma laranjeira no quintal.", "Há uma nova árvore de frutas atrás da casa."),
        ("O voo para Lisboa foi cancelado.", "O avião não vai partir para a capital portuguesa."),
        ("O vizinho toca bateria até tarde.", "O barulho da percussão ao lado não me deixa dormir."),
        ("A farmácia fica aberta a noite toda.", "Pode-se comprar remédios de madrugada."),
        ("O aluno entregou o trabalho fora do prazo.", "O estudante atrasou-se com a tarefa."),
        ("O governo vai construir uma nova escola.", "Está prevista uma obra para a educação."),
        ("A sopa precisa de mais sal.", "O caldo está sem sabor."),
        ("As crianças fizeram um boneco de neve.", "Os meninos brincaram no frio do inverno."),
        ("O banco fechou a minha conta sem aviso.", "Já não tenho onde guardar o dinheiro, e ninguém me informou."),
    ],
    "id": [
        ("Harga beras naik sejak bulan lalu.", "Bahan makanan pokok menjadi lebih mahal."),
        ("Saya lupa membawa payung dan kehujanan.", "Pakaian saya basah karena cuaca buruk."),
        ("Jalan ke bandara macet setiap pagi.", "Banyak mobil terhenti di jalan menuju pesawat."),
        ("Adik saya belajar berenang di kolam.", "Ia berlatih di air supaya tidak tenggelam."),
        ("Gunung itu meletus tadi malam.", "Lava dan abu keluar dari kawah kemarin."),
        ("Toko buku itu memberi diskon untuk pelajar.", "Murid membayar lebih murah untuk bacaan."),
        ("Dokter menyarankan saya minum lebih banyak air.", "Demi kesehatan, saya harus menambah cairan."),
        ("Kereta terakhir berangkat pukul sebelas malam.", "Setelah jam 23 tidak ada lagi perjalanan di rel."),
        ("Ibu memasak rendang untuk hari raya.", "Masakan daging disiapkan untuk perayaan."),
        ("Lampu jalan di depan rumah kami mati.", "Di luar gelap karena penerangan rusak."),
        ("Petani menanam jagung di ladang.", "Benih ditaruh di tanah oleh pekerja sawah."),
        ("Mereka menikah di tepi pantai.", "Upacara pernikahan itu diadakan di dekat laut."),
        ("Ponsel saya jatuh dan layarnya retak.", "Kaca telepon itu pecah."),
        ("Perpustakaan menyimpan naskah kuno.", "Tulisan tua disimpan di gedung itu."),
    ],
    "tr": [
        ("Otobüs durağı okulun tam karşısında.", "Öğrenciler servise yolun öbür tarafında binebilir."),
        ("Komşumuz her sabah koşuya çıkar.", "Yandaki adam gün doğarken spor yapar."),
        ("Çayımı şekersiz içerim.", "Sıcak içeceğime tatlandırıcı koymam."),
        ("Elektrikler iki saattir kesik.", "Uzun süredir evde ışık yok."),
        ("Kardeşim mühendis olmak istiyor.", "O, ileride teknik bir meslek seçecek."),
        ("Deniz bugün çok dalgalı.", "Sular fırtınadan dolayı sakin değil."),
        ("Annem bahçede domates yetiştiriyor.", "Evin önünde sebze ekiliyor."),
        ("Bilet fiyatlarına yüzde on zam yapıldı.", "Yolculuk artık daha pahalı."),
        ("Kütüphanede yüksek sesle konuşmak yasaktır.", "Kitap okunan yerde sessiz olunmalıdır."),
        ("Arabanın lastiği yolda patladı.", "Tekerlek hava kaçırdığı için durduk."),
        ("Takım finali penaltılarla kazandı.", "Kupa, uzatmalardan sonra yapılan atışlarla geldi."),
        ("Yeni hastane gelecek yıl açılacak.", "Sağlık merkezi bir sene sonra hizmete girecek."),
        ("Kedi ağaca çıktı ve inemiyor.", "Hayvan dalların arasında mahsur kaldı."),
        ("Bu yaz Antalya'da tatil yapacağız.", "Ağustosta güneydeki sahile gideceğiz."),
    ],
}  # fmt: skip


def first_ranked(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> list[bool]:
    """Return for each vector on the left whether its partner on the right is the nearest. All have length 1."""

    def nearness(one: Sequence[float], other: Sequence[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    found = []
    for index, vector in enumerate(left):
        scores = [nearness(vector, other) for other in right]
        found.append(scores.index(max(scores)) == index)
    return found
